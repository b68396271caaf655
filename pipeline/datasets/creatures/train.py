"""Trains the small network on freshly drawn creatures: `python -m pipeline.datasets.creatures.train --help`."""

import json
import os
import time
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import tyro
from safetensors.torch import save_file
from torch.nn import functional as F

from pipeline.datasets.creatures import network
from pipeline.datasets.creatures.classes import CLASSES, differing_parts, pairs
from pipeline.datasets.creatures.draw import draw


@dataclass(frozen=True)
class Training:
    """The recipe of the training; two sets are drawn, each with its own seed."""

    images: int = 4800  # drawn for training
    val_images: int = 960
    seed: int = 0  # of the training images, the first weights and the order; the validation images take seed + 1
    epochs: int = 14
    batch_size: int = 32
    learning_rate: float = 2e-3  # the highest of a one-cycle schedule
    weight_decay: float = 0.05
    threads: int = 1  # of torch, and processes that draw
    out: Path = network.WEIGHTS  # the sidecar goes beside it, as .json


def _one(job: tuple[int, int]) -> np.ndarray:
    seed, index = job
    return draw(seed, index % len(CLASSES), index).image


def drawn(count: int, seed: int, processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` images [N 3 H W] uint8 and labels [N], classes in turn, each in a scene of its own."""
    jobs = [(seed, index) for index in range(count)]
    if processes == 1:
        images = [_one(job) for job in jobs]
    else:
        with get_context("spawn").Pool(processes) as pool:
            images = pool.map(_one, jobs, chunksize=50)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.arange(count) % len(CLASSES)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels [B 3 H W] -> what the network takes."""
    mean, std = torch.tensor(network.MEAN).view(3, 1, 1), torch.tensor(network.STD).view(3, 1, 1)
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _vary(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shifted by up to 8 pixels and mirrored, each image by its own draw."""
    size = images.shape[-1]
    padded = F.pad(images.float(), (8, 8, 8, 8), mode="reflect")
    moves = torch.randint(0, 17, (len(images), 2), generator=rng).tolist()
    moved = torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, moves, strict=True)])
    mirror = torch.rand(len(images), generator=rng) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), moved.flip(-1), moved)


def fit(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, val: tuple[torch.Tensor, torch.Tensor], how: Training) -> None:
    """Train in place, with AdamW on a one-cycle schedule; prints a line per epoch."""
    rng = torch.Generator().manual_seed(how.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    steps = how.epochs * (len(images) // how.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.learning_rate, total_steps=steps, pct_start=0.2)
    start = time.monotonic()
    for epoch in range(1, how.epochs + 1):
        order, losses = torch.randperm(len(images), generator=rng), []
        model.train()
        for rows in order[: len(order) // how.batch_size * how.batch_size].view(-1, how.batch_size):
            logits = model(normalise(_vary(images[rows], rng)))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        right = accuracy(predict(model, val[0][:300]), val[1][:300])
        print(f"epoch {epoch:3d}  loss {np.mean(losses):.4f}  val accuracy {right:.3f}  {time.monotonic() - start:.0f} s", flush=True)


@torch.inference_mode()
def predict(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Predicted labels [N]."""
    model.eval()
    return torch.cat([model(normalise(chunk)).argmax(1) for chunk in images.split(100)])


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    """The share that is right."""
    return (predicted == labels).float().mean().item()


def told_apart(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """For each pair of classes that differ in one part: the share of their images that are not taken for each other."""
    shares = {}
    for names in pairs(1):
        a, b = map(CLASSES.index, names)
        either = (labels == a) | (labels == b)
        swapped = ((labels == a) & (predicted == b)) | ((labels == b) & (predicted == a))
        shares[f"{names[0]} / {names[1]} ({differing_parts(a, b)[0]})"] = 1 - (swapped.sum() / either.sum()).item()
    return shares


def save(model: torch.nn.Module, how: Training, measured: dict) -> None:
    """Write the weights in half precision, and the sidecar that says what they are."""
    how.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}, how.out)
    recipe = {name: value for name, value in asdict(how).items() if name not in ("out", "threads")}
    facts = {"model": network.NAME, "args": network.ARGS, "image_size": network.IMAGE_SIZE, "mean": network.MEAN, "std": network.STD}
    how.out.with_suffix(".json").write_text(json.dumps(facts | {"classes": CLASSES, "training": recipe} | measured, indent=2) + "\n")


def main(how: Training) -> None:
    """Draw, train, measure what will be loaded (the rounded weights) and save."""
    torch.set_num_threads(how.threads)
    torch.manual_seed(how.seed)
    start = time.monotonic()
    images, labels = drawn(how.images, how.seed, how.threads)
    val = drawn(how.val_images, how.seed + 1, how.threads)
    print(f"drew {len(images) + len(val[0])} images in {time.monotonic() - start:.0f} s", flush=True)
    model = timm.create_model(network.NAME, **network.ARGS).to(memory_format=torch.channels_last)
    fit(model, images, labels, val, how)
    model = model.half().float()
    train_logits, val_logits = predict(model, images), predict(model, val[0])
    measured: dict[str, Any] = {"train_accuracy": accuracy(train_logits, labels), "val_accuracy": accuracy(val_logits, val[1])}
    measured |= {"one_part_pairs_told_apart": told_apart(val_logits, val[1]), "seconds": round(time.monotonic() - start)}
    save(model, how, measured)
    print(json.dumps(measured, indent=2), f"\nweights: {how.out}, {os.path.getsize(how.out)} bytes")


if __name__ == "__main__":
    main(tyro.cli(Training, description=__doc__))
