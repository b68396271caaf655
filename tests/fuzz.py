"""Mutated tars, images, JSON and PNG masks against the readers: every sample is read or told, and nothing crashes or hangs.

python -m tests.fuzz 20000        # cases; `make fuzz`
"""

import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import sources
from pipeline.sources.decode import Undecodable, decode
from pipeline.sources.labels import Classes, resolve
from pipeline.sources.sample import parse_json, sample_of
from tests.shards import encoded, good, picture, tar_bytes

SLOWEST = 20.0  # seconds one case may take on a busy machine


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few bytes flipped, overwritten, removed, doubled or swapped, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 16, 512))
        kind = draw.randrange(6)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + length] = draw.choice((b"\0", b"\xff", b"9", b"{", b"[", b"\x7f")) * length
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = draw.randbytes(min(length, len(data) - at))
        else:
            del data[at:]
    return bytes(data)


def images() -> list[bytes]:
    """Small pictures of every format and mode, and index masks."""
    mask = Image.fromarray((np.indices((24, 20)).sum(0) % 5).astype(np.uint8), "L")
    forms = [encoded(picture(1, 24), form) for form in ("PNG", "JPEG", "WEBP")]
    forms += [encoded(picture(2, 24).convert(mode), "PNG") for mode in ("L", "P", "RGBA", "1", "I;16")]
    forms += [encoded(picture(3, 24).convert("CMYK"), "JPEG"), encoded(picture(4, 24), "JPEG", progressive=True), encoded(mask, "PNG")]
    return forms


ANNOTATION = {
    "label": 3,
    "label_name": "wren",
    "boxes": [[0.1, 0.2, 0.5, 0.9], {"x0": 0, "y0": 0, "x1": 1, "y1": 1}],
    "parts": {"head": [0.5, 0.25]},
    "part_names": ["head", "tail"],
    "attributes": [0.5, 1, 0],
    "split": "val",
}


def told(error: str, message: str) -> str:
    """The kind of a problem, once it is one readable line."""
    assert error and message and "\n" not in message
    return error


class Cases:
    """One case of each kind; each returns what became of it, and raises where the reader broke its word."""

    def __init__(self, folder: Path):
        self.folder, self.images = folder, images()
        self.tar = tar_bytes([(f"s{i}", {**good(i), "mask.png": self.images[-1]}) for i in range(3)])
        self.json = [json.dumps(ANNOTATION).encode(), json.dumps(ANNOTATION, indent=1).encode("utf-16-le")]
        self.seen = Counter()

    def image(self, draw: random.Random) -> str:
        try:
            shown = decode(mutated(draw.choice(self.images), draw), (16, 16), crop=draw.choice(("squash", "center")))
        except Undecodable as error:
            return told(error.error, error.message)
        assert shown.pixels.shape == (3, 16, 16) and shown.pixels.dtype == np.uint8
        return "read"

    def annotation(self, draw: random.Random) -> str:
        problems: list = []
        value = parse_json(mutated(draw.choice(self.json), draw), problems)
        assert isinstance(value, dict)
        sample = sample_of("key", {"png": b"x", "json": mutated(self.json[0], draw), "cls": mutated(b"12", draw)}, [])
        resolve(sample.label, Classes(20))
        assert all(len(box) == 4 and np.isfinite(box).all() for box in sample.boxes)
        for problem in (*problems, *sample.problems):
            told(*problem)
        return problems[0][0] if problems else "read"

    def shard(self, draw: random.Random) -> str:
        """A damaged tar: what comes before the damage is read, whatever is not is told, and both readings agree."""
        path = self.folder / "shard.tar"
        path.write_bytes(mutated(self.tar, draw))
        [shard] = sources.list_shards([str(path)])
        index = sources.index(shard)
        assert index.count or index.problems, "neither a sample nor a reason"
        samples = list(sources.read(shard, 0, None, index))
        assert len(samples) == index.count
        for sample in samples:
            assert sample.image is not None or sample.problems
        for problem in index.problems:
            told(problem.error, problem.message)
        whole = {sample.key: sample.image for sample in samples}
        if path.read_bytes().startswith(self.tar[: len(self.tar) // 2]):
            assert whole["s0"] == good(0)["png"], "the damage lies behind the first sample"
        return index.problems[0].error if index.problems else "read"

    def run(self, number: int) -> None:
        draw = random.Random(number)
        kind = ("image", "annotation", "shard")[number % 3]
        started = time.monotonic()
        try:
            fate = getattr(self, kind)(draw)
        except Exception as error:
            raise AssertionError(f"case {number} ({kind}) broke: {type(error).__name__}: {error}") from error
        assert time.monotonic() - started < SLOWEST, f"case {number} ({kind}) hung"
        self.seen[kind, fate] += 1


def fuzz(first: int, cases: int) -> Counter:
    """So many cases, by kind and by what became of them."""
    with tempfile.TemporaryDirectory() as folder:
        all_cases = Cases(Path(folder))
        for number in range(first, first + cases):
            all_cases.run(number)
    return all_cases.seen


if __name__ == "__main__":
    begun = time.monotonic()
    found = fuzz(0, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
    for (kind, fate), count in sorted(found.items()):
        print(f"{kind:12}{fate:24}{count:7}")
    print(f"{sum(found.values()):,} cases in {time.monotonic() - begun:.0f} s, none crashed or hung")
