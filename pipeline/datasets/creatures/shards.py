"""Creatures as WebDataset shards, with the class tables of CUB beside them; the same call writes the same bytes."""

import io
import json

import fsspec
import numpy as np
import webdataset
from PIL import Image

from pipeline.datasets.creatures.classes import CLASSES, PARTS, write_tables
from pipeline.datasets.creatures.draw import Drawing, draw

SEEDS = {"train": 0, "val": 1}  # the shipped network was trained on seed 0, and measured on seed 1
# a colour for each part id, so that masks can be looked at
_PALETTE = [0, 0, 0, 70, 70, 70, 140, 110, 60, 244, 132, 38, 200, 160, 200, 60, 160, 90, 250, 206, 40, 46, 98, 228, 150, 75, 0, 222, 48, 52]


def write(out: str, images_per_class: int = 20, shards: int = 2, seed: int | None = None, split: str = "val") -> list[str]:
    """Write one split to `<out>/<split>/00000.tar` and on, and the class tables to `out`; any fsspec URL.

    Each sample has KEY.png, KEY.cls, KEY.parts.png (the ids of the visible parts, 0 for none) and KEY.json: label,
    label_name, boxes, parts {CUB's name: [x, y]} of those visible (fractions of the image), part_names, split, seed, index.
    The seed is the split's own where none is given.

    Returns:
        The shards' URLs.

    Raises:
        KeyError: a split other than train or val without a seed.
        ValueError: not at least one image a class and one image a shard.
    """
    seed = SEEDS[split] if seed is None else seed
    count = images_per_class * len(CLASSES)
    if not 1 <= shards <= count:
        raise ValueError(f"cannot write {count} images as {shards} shards")
    out = str(out).rstrip("/")
    urls = []
    for number, indices in enumerate(np.array_split(np.arange(count), shards)):
        urls.append(f"{out}/{split}/{number:05d}.tar")
        with fsspec.open(urls[-1], "wb") as file, webdataset.TarWriter(file, mtime=0, user="", group="") as tar:
            for index in indices.tolist():
                tar.write(sample(seed, index, split))
    write_tables(out)
    return urls


def sample(seed: int, index: int, split: str) -> dict[str, str | bytes]:
    """One WebDataset sample: classes in turn, each image in a scene of its own."""
    label = index % len(CLASSES)
    drawing = draw(seed, label, index)
    truth = {"label": label, "label_name": CLASSES[label], "boxes": [drawing.box], "parts": _round_points(drawing), "part_names": PARTS}
    return {
        "__key__": f"{split}_{seed}_{index:06d}",
        "png": _png(Image.fromarray(drawing.image)),
        "cls": str(label).encode(),
        "json": json.dumps(truth | {"split": split, "seed": seed, "index": index}).encode(),
        "parts.png": _png(_encode_indexed(drawing.mask)),
    }


def _round_points(drawing: Drawing) -> dict[str, list[float]]:
    return {name: [round(x, 5), round(y, 5)] for name, (x, y) in drawing.points.items()}


def _encode_indexed(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask).convert("P")
    image.putpalette(_PALETTE)
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
