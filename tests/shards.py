"""Shards for tests: real tars with real encoded images."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side: int = 64) -> Image.Image:
    """A colourful picture with large shapes, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def good(seed: int, classes: int = 5) -> dict[str, bytes]:
    """The members of one sample without anything wrong."""
    truth = {"label": seed % classes, "boxes": [[0.25, 0.25, 0.75, 0.5]]}
    return {"png": encoded(picture(seed)), "cls": str(seed % classes).encode(), "json": json.dumps(truth).encode()}


def tar_bytes(samples: list[tuple[str, dict[str, bytes]]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for key, members in samples:
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def dataset(folder: Path, shards: int = 3, images: int = 4) -> str:
    """Good shards in `folder`; returns the brace range that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        samples = [(f"image{shard * images + i:03}", good(shard * images + i)) for i in range(images)]
        (folder / f"{shard:05}.tar").write_bytes(tar_bytes(samples))
    return f"{folder}/{{00000..{shards - 1:05}}}.tar"
