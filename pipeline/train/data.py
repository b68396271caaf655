"""The images of a training: decoded once into files of this machine, then read in an order that seed and epoch decide.

N images, B of a batch, S pixels of the side that is cropped, H W pixels of the network's input
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import sources
from pipeline.refusal import Refusal
from pipeline.sources.decode import Undecodable, decode
from pipeline.sources.labels import Classes, resolve
from pipeline.tables.identity import digest, seed_of
from pipeline.train.team import Team

WIDER = 256 / 224  # images are brought to this multiple of the input size before the crop, as the WSOL benchmark does
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Asked:
    """What decides the decoded images.

    Attributes:
        shards: each with its index, and whether all of it is for validation.
        augmented: whether training images are kept larger, to be cropped.
        train_split: what the samples that are for training say of their split.
    """

    shards: tuple[tuple[sources.Shard, sources.Index, bool], ...]
    classes: Classes
    size: tuple[int, int]
    interpolation: str
    augmented: bool
    train_split: str
    val_share: float
    seed: int

    @property
    def wide(self) -> tuple[int, int]:
        """The size that training images are cropped from."""
        return tuple(round(side * WIDER) for side in self.size)

    @property
    def identity(self) -> str:
        """The images and labels; the folder they lie in is no part of it."""
        shards = [[index.identity, val] for _, index, val in self.shards]
        decides = [shards, self.classes.names or self.classes.num_classes, self.size, self.interpolation, self.augmented, self.train_split]
        return digest(decides + [self.val_share, self.seed])


@dataclass(frozen=True)
class Images:
    """Decoded images. `rows` of a split are positions in all the arrays.

    Attributes:
        ids, labels [N], rows: of the images that have an image and a label.
        wide: uint8 [N 3 S S], where training images are cropped from; `shown`: uint8 [N 3 H W], what all others are seen as.
        errors: rows of the errors table: images and shards that could not be used.
    """

    asked: Asked
    ids: tuple[str, ...]
    labels: np.ndarray
    rows: dict[str, list[int]]
    wide: np.ndarray
    shown: np.ndarray
    errors: list[dict]

    def order(self, epoch: int) -> list[int]:
        """The training images in the order of an epoch, which seed, epoch and ids alone decide."""
        return sorted(self.rows["train"], key=lambda row: digest([self.asked.seed, epoch, self.ids[row]]))

    def varied(self, rows: Sequence[int], epoch: int) -> np.ndarray:
        """Crops, half of them mirrored [B 3 H W]; each by the draw of its own seed, epoch and id."""
        (tall, broad), (height, width) = self.asked.wide, self.asked.size
        found = np.empty((len(rows), 3, height, width), np.uint8)
        for place, row in enumerate(rows):
            draw = np.random.default_rng(seed_of(self.asked.seed, "crop", epoch, self.ids[row]))
            top, left = draw.integers(tall - height + 1), draw.integers(broad - width + 1)
            crop = self.wide[row, :, top : top + height, left : left + width]
            found[place] = crop[..., ::-1] if draw.random() < 0.5 else crop
        return found


def images(asked: Asked, cache: str, team: Team) -> Images:
    """The images, decoded unless that has been done.

    Raises:
        Refusal: where no image is for training.
    """
    folder = filled(Path(cache) / f"images-{asked.identity}", lambda draft: _decode(asked, draft), team)
    told = json.loads((folder / "samples.json").read_text())
    count = sum(index.count for _, index, _ in asked.shards)
    wide = array(folder / "wide.u8", (count, 3, *asked.wide)) if asked.augmented else np.empty((0,), np.uint8)
    shown = array(folder / "shown.u8", (count, 3, *asked.size))
    rows = {split: told["rows"].get(split, []) for split in SPLITS}
    if not rows["val"]:
        held = set(told["held_out"])
        rows = {**rows, "val": sorted(held), "train": [row for row in rows["train"] if row not in held]}
    if not rows["train"]:
        reasons = Counter(error["error"] for error in told["errors"])
        others = {split: len(found) for split, found in told["rows"].items()}
        raise Refusal(f"no image is left to train on; of {count}, by split: {others}, unusable: {dict(reasons)}; see --train-split")
    return Images(asked, tuple(told["ids"]), np.array(told["labels"]), rows, wide, shown, told["errors"])


def filled(folder: Path, fill: Callable[[Path], None], team: Team) -> Path:
    """A folder of the cache, filled by one worker of each machine unless it is there; it appears whole or not at all."""
    if team.local_rank == 0 and not folder.exists():
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
        draft.mkdir(parents=True)
        try:
            fill(draft)
            draft.rename(folder)
        except OSError:
            if not folder.exists():  # another job may have been faster
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    team.wait()
    return folder


def array(path: Path, shape: tuple[int, ...], dtype=np.uint8, new: bool = False) -> np.ndarray:
    """A file as an array; rows that were never written take no room."""
    return np.memmap(path, dtype, "w+" if new else "r", shape=shape)


def _decode(asked: Asked, folder: Path) -> None:
    """Every image of every shard into arrays, a row each; what cannot be used leaves its row empty and says why."""
    count = sum(index.count for _, index, _ in asked.shards)
    wide = array(folder / "wide.u8", (count, 3, *asked.wide), new=True) if asked.augmented else None
    shown = array(folder / "shown.u8", (count, 3, *asked.size), new=True)
    told = {"ids": [""] * count, "labels": [-1] * count, "rows": {}, "held_out": [], "errors": []}
    start = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for shard, index, val in asked.shards:
            told["errors"] += [problem.to_row() for problem in index.problems]
            try:
                found = pool.map(partial(_one, asked, shard, val), sources.read(shard, 0, None, index))
                for row, each in enumerate(found, start):
                    told["ids"][row] = each.image_id
                    if each.problem:
                        told["errors"].append(each.problem.to_row())
                        continue
                    told["labels"][row] = each.label
                    told["rows"].setdefault(each.split, []).append(row)
                    told["held_out"] += [row] if each.held_out else []
                    if each.wide is not None:
                        wide[row] = each.wide
                    if each.shown is not None:
                        shown[row] = each.shown
            except sources.ShardError as error:
                told["errors"].append(shard.problem(error.error, error.message, "read").to_row())
            start += index.count
    (folder / "samples.json").write_text(json.dumps(told))


@dataclass(frozen=True)
class _Decoded:
    """One sample at the sizes it is needed in."""

    image_id: str
    label: int = -1
    split: str = ""
    held_out: bool = False
    wide: np.ndarray | None = None
    shown: np.ndarray | None = None
    problem: sources.Problem | None = None


def _one(asked: Asked, shard: sources.Shard, val: bool, sample: sources.Sample) -> _Decoded:
    image_id = shard.image_id(sample.key)
    label, _, problem = resolve(sample.label, asked.classes)
    if sample.image is None or label is None:
        error, message = problem or next(iter(sample.problems), ("MissingLabel", "the sample has no label"))
        stage = "read" if sample.image is None else "label"
        return _Decoded(image_id, problem=sources.Problem(image_id, shard.name, stage, error, message))
    own = str(sample.split or asked.train_split)
    split = "val" if val else "train" if own == asked.train_split else own if own != "train" else "unused"
    held_out = split == "train" and _share(asked, image_id) < asked.val_share
    cropped = asked.augmented and split == "train"
    try:
        wide = decode(sample.image, asked.wide, asked.interpolation).pixels if cropped else None
        shown = decode(sample.image, asked.size, asked.interpolation).pixels if held_out or not cropped else None
    except Undecodable as error:
        return _Decoded(image_id, problem=sources.Problem(image_id, shard.name, "decode", error.error, error.message))
    return _Decoded(image_id, label, split, held_out, wide, shown)


def _share(asked: Asked, image_id: str) -> float:
    """A number in [0, 1) that seed and id decide."""
    return int(digest([asked.seed, "held out", image_id])[:12], 16) / 16**12
