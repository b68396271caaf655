"""Epochs of steepest descent, the same in one process and on many workers.

Every batch is the same set of images whatever the number of workers: each takes its share of it, and the gradients are added up.

B images of a batch, K channels, C classes, h w cells
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbones.heads import Headed
from pipeline.backbones.libraries import checkpoint
from pipeline.backbones.weights import weights_digest
from pipeline.progress import Progress
from pipeline.refusal import Refusal
from pipeline.storage import join
from pipeline.tables import files
from pipeline.train import data, descent, losses
from pipeline.train.check import CheckedTraining, initial_network
from pipeline.train.features import SEEN_AT_ONCE, entering, features
from pipeline.train.state import State, StateFile
from pipeline.train.team import Team

log = logging.getLogger(__name__)


def train(checked: CheckedTraining, team: Team = Team(), device: str = "cpu") -> None:
    """Train at every rate, from where an earlier start left off, and write the best network to `<out>/checkpoint.safetensors`.

    Raises:
        Refusal: where nothing can be trained on, or every rate diverged.
    """
    job = checked.job
    images = data.images(checked.asked, job.cache, team)
    if len(job.lr) > 1 and not images.rows["val"]:
        raise Refusal("several learning rates are told apart on validation images, and there are none; give --val-source or --val-share")
    total = (job.head_epochs + job.epochs) * len(images.rows["train"]) * len(job.lr)
    progress = Progress("train", total, "images") if team.rank == 0 else None
    rates = [LearningRateTrial(checked, images, lr, team, torch.device(device), progress) for lr in job.lr]
    for rate in rates:
        rate.run()
    sound = [rate for rate in rates if not rate.state.diverged]
    if not sound:
        raise Refusal(f"the loss diverged at every rate of --lr {' '.join(map(str, job.lr))}; give smaller ones")
    best = max(sound, key=_goodness)
    best.network.load_state_dict(best.state.network)
    test = best.judged(images.rows["test"])
    if team.rank == 0:
        _write(checked, images, rates, best, test)


def _goodness(rate: "LearningRateTrial") -> tuple:
    """By the last epoch's accuracy on validation images, then by its loss."""
    row = rate.state.epochs[-1]
    return (row["val_accuracy"] or 0, -(row["val_loss"] or 0))


@dataclass
class LearningRateTrial:
    """A training at one learning rate."""

    checked: CheckedTraining
    images: data.Images
    lr: float
    team: Team
    device: torch.device
    progress: Progress | None
    state: State = State()

    @cached_property
    def network(self) -> Headed:
        return initial_network(self.checked).to(self.device)

    @cached_property
    def features(self) -> np.ndarray | None:
        """What a frozen trunk makes of every image [N K h w], computed once for all rates and heads."""
        return features(self.checked, self.network.trunk, self.images, self.team) if self.checked.job.freeze == "trunk" else None

    @property
    def keeper(self) -> StateFile:
        decides = {**self.checked.decides, "lr": self.lr}
        return StateFile(join(self.checked.job.out, "state", f"lr-{self.lr:g}.safetensors"), self.checked.recipe, decides)

    def run(self) -> None:
        """All epochs that are missing; after each the state is written."""
        job, self.state = self.checked.job, self.keeper.read()
        epochs, done = job.head_epochs + job.epochs, len(self.state.epochs)
        if done > epochs:
            raise Refusal(f"{self.keeper.url} has {done} epochs already; give --epochs {done - job.head_epochs} or another --out")
        if self.state.network:
            self.network.load_state_dict(self.state.network)
        if self.progress:
            self.progress.add((epochs if self.state.diverged else done) * len(self.images.rows["train"]))
        for epoch in range(done, epochs):
            if self.state.diverged:
                break
            self._epoch(epoch)
            if self.team.rank == 0:
                self.keeper.write(self.state)

    def _epoch(self, epoch: int) -> None:
        job, started = self.checked.job, time.monotonic()
        alone = epoch < job.head_epochs  # the head
        fixed = alone or job.freeze == "trunk"
        parts = {"head": job.head_lr} if alone else self._rates()
        self.network.requires_grad_(True)
        self.network.trunk.requires_grad_(not fixed)
        groups = [{"params": list(getattr(self.network, part).parameters()), "lr": lr} for part, lr in parts.items()]
        optimiser = descent.optimiser(job, groups)
        if epoch != job.head_epochs:  # the first epoch of all layers starts at rest
            descent.give_memory(self.network, optimiser, self.state.memory)
        self._mode(training=True, fixed=fixed)
        parameters = [value for group in groups for value in group["params"]]
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        batches = list(self._batches(epoch))
        for step, batch in enumerate(batches):
            for group, lr in zip(optimiser.param_groups, parts.values(), strict=True):
                group["lr"] = lr if alone else lr * descent.factor(job, epoch - job.head_epochs + step / len(batches))
            optimiser.zero_grad(set_to_none=True)
            mine = batch[self.team.rank :: self.team.size]
            if mine:
                each, nll, right = self._loss(mine, epoch, fixed)
                (each.sum() / len(batch)).backward()
                sums += torch.stack([each.detach().double().sum(), nll, right, right.new_tensor(len(mine))])
            self.team.add_gradients(parameters)
            if job.clip:
                torch.nn.utils.clip_grad_norm_(parameters, job.clip)
            optimiser.step()
            if self.progress:
                self.progress.add(len(batch))
        self.team.average([buffer for buffer in self.network.buffers() if buffer.is_floating_point()])
        loss, nll, right, count = self.team.add(sums).tolist()
        row = {"lr": self.lr, "epoch": epoch + 1, "trained": "head" if fixed else "all"}
        row |= {"loss": loss / count, "nll": nll / count, "accuracy": right / count}
        row |= self.judged(self.images.rows["val"], "val_")
        row |= {"seconds": round(time.monotonic() - started, 3)}
        if self.progress:
            shown = ", ".join(
                f"{name} {value:.4f}" for name, value in row.items() if isinstance(value, float) and name not in ("lr", "seconds")
            )
            log.info("rate %g, epoch %d: %s, %.1f images/s", self.lr, epoch + 1, shown, count / max(row["seconds"], 1e-3))
        network = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        memory = {name: value.cpu().clone() for name, value in descent.memory_of(self.network, optimiser).items()}
        self.state = State(
            (*self.state.epochs, row), network, memory, diverged=not all(map(math.isfinite, (row["loss"], row["val_loss"] or 0)))
        )

    def _rates(self) -> dict[str, float]:
        """The highest learning rates of trunk and head in the epochs of all layers."""
        head = {"head": self.lr * self.checked.job.head_lr_factor}
        return {"trunk": self.lr, **head} if self.checked.job.freeze == "none" else head

    def _mode(self, training: bool, fixed: bool = False) -> None:
        """Training mode, except where the trunk, or the statistics of its BatchNorm, are fixed."""
        self.network.train(training)
        if fixed:
            self.network.trunk.eval()
        for part in self.network.trunk.modules():
            if self.checked.frozen_norm and isinstance(part, _BatchNorm):
                part.eval()

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        order, size = self.images.order(epoch), self.checked.job.batch_size
        return (order[start : start + size] for start in range(0, len(order), size))

    def _loss(self, rows: Sequence[int], epoch: int, fixed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each image [B], the sum of -log p(y|x), which EM's loss bounds, and how many are right."""
        with torch.set_grad_enabled(not fixed):
            A = (
                self._seen(rows)
                if self.features is not None
                else self.network.trunk(entering(self.checked, self.device, self.images.varied(rows, epoch)))
            )
        labels = self._labels(rows)
        each, logits = losses.loss(self.checked.recipe.head, self.network, A, labels)
        nll = torch.nn.functional.cross_entropy(logits.detach().double(), labels, reduction="sum")
        return each, nll, (logits.argmax(1) == labels).sum().double()

    @torch.no_grad()
    def judged(self, rows: Sequence[int], prefix: str = "") -> dict[str, float | None]:
        """Accuracy and -log p(y|x) over some images, of the network as it will be used; None where there are none."""
        self._mode(training=False)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        mine = rows[self.team.rank :: self.team.size]
        for start in range(0, len(mine), SEEN_AT_ONCE):
            part = mine[start : start + SEEN_AT_ONCE]
            A = (
                self._seen(part)
                if self.features is not None
                else self.network.trunk(entering(self.checked, self.device, self.images.shown[part]))
            )
            logits, labels = self.network.head(A), self._labels(part)
            right = (logits.argmax(1) == labels).sum().double()
            sums += torch.stack(
                [torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum"), right, right.new_tensor(len(part))]
            )
        loss, right, count = self.team.add(sums).tolist()
        return {f"{prefix}loss": loss / count if count else None, f"{prefix}accuracy": right / count if count else None}

    def _labels(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.images.labels[list(rows)]).to(self.device)

    def _seen(self, rows: Sequence[int]) -> Tensor:
        found = torch.from_numpy(self.features[list(rows)]).to(self.device)
        return found.contiguous(memory_format=torch.channels_last).float()  # turned before it is widened: a 1x1 head twice as fast


def _write(checked: CheckedTraining, images: data.Images, rates: Sequence[LearningRateTrial], best: LearningRateTrial, test: dict) -> None:
    """The best network, and beside it everything that is known about the training."""
    trunk = weights_digest(best.network.trunk.state_dict())
    recipe = replace(checked.recipe, trunk=trunk)
    files.write_bytes(join(checked.job.out, "checkpoint.safetensors"), checkpoint.encode(recipe, best.network.state_dict()))
    told = {
        "recipe": json.loads(recipe.to_json()),
        "decides": checked.decides,
        "images": {split: len(rows) for split, rows in images.rows.items()},
        "lr": best.lr,
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
        "epochs": [row for rate in rates for row in rate.state.epochs],
        "errors": images.errors,
    }
    told |= {name: best.state.epochs[-1][name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    files.write_json(join(checked.job.out, "training.json"), told)
