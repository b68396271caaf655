"""The images of a training: decoded once into files of this machine, then read in an order that seed and epoch decide.

N images, B of a batch, S pixels of the side that is cropped, H W pixels of the network's input
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from pipeline import sources
from pipeline.refusal import Refusal
from pipeline.sources.decode import Undecodable, decode
from pipeline.sources.labels import Classes, resolve
from pipeline.sources.splits import split_of
from pipeline.tables.identity import digest, seed_of
from pipeline.train.team import Team

WIDER = 256 / 224  # images are brought to this multiple of the input size before the crop, as the WSOL benchmark does
SPLITS = ("train", "val", "test")  # what an image may be for


@dataclass(frozen=True)
class ImageSpec:
    """Everything that decides the decoded images.

    Attributes:
        shards: each with its index, and whether all of it is for validation.
        size: height and width of the network's input in pixels.
        augmented: whether training images are kept larger, to be cropped.
        train_split: the `split` of the samples that are for training.
        val_share: the share of the training images held out where no sample is for validation.
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
    def wide_size(self) -> tuple[int, int]:
        """The size that training images are cropped from."""
        height, width = (round(side * WIDER) for side in self.size)
        return height, width

    @property
    def count(self) -> int:
        """Images in all shards."""
        return sum(index.count for _, index, _ in self.shards)

    @property
    def identity(self) -> str:
        """The hash of the images and labels; the folder of their shards is no part of it."""
        shards = [[index.identity, val] for _, index, val in self.shards]
        classes = self.classes.names or self.classes.num_classes
        pixels = [self.size, self.interpolation, self.augmented]
        names = {name for _, index, val in self.shards for name in index.splits if not val}
        # Names beside train, val and test were once taken as they are written, so that `validation` was no split of any use.
        meant = {name: use for name in sorted(names) if (use := use_of(name, self.train_split)) != _written_use(name, self.train_split)}
        return digest([shards, classes, *pixels, self.train_split, self.val_share, self.seed, *([meant] if meant else [])])


@dataclass(frozen=True)
class Images:
    """Decoded images.

    Attributes:
        ids: an id an image [N].
        labels: whole numbers [N].
        rows: split -> the positions in all the arrays of its images that have pixels and a label.
        wide: uint8 [N 3 S S], the images that training images are cropped from; empty where none are cropped.
        inputs: uint8 [N 3 H W], all others, at the size of the network's input.
        errors: rows of the errors table: images and shards that cannot be used.
    """

    spec: ImageSpec
    ids: tuple[str, ...]
    labels: np.ndarray
    rows: dict[str, list[int]]
    wide: np.ndarray
    inputs: np.ndarray
    errors: list[dict]

    def order(self, epoch: int) -> list[int]:
        """The training images in the order of an epoch, which seed, epoch and ids alone decide."""
        return sorted(self.rows["train"], key=lambda row: digest([self.spec.seed, epoch, self.ids[row]]))

    def crops(self, rows: Sequence[int], epoch: int) -> np.ndarray:
        """Crops uint8 [B 3 H W], half of them mirrored. Seed, epoch and an image's id decide its crop."""
        (wide_height, wide_width), (height, width) = self.spec.wide_size, self.spec.size
        crops = np.empty((len(rows), 3, height, width), np.uint8)
        for i, row in enumerate(rows):
            rng = np.random.default_rng(seed_of(self.spec.seed, "crop", epoch, self.ids[row]))
            top, left = rng.integers(wide_height - height + 1), rng.integers(wide_width - width + 1)
            crop = self.wide[row, :, top : top + height, left : left + width]
            crops[i] = crop[..., ::-1] if rng.random() < 0.5 else crop
        return crops


@dataclass
class SampleTable:
    """The content of samples.json beside the pixels: an id and a label for each row, the rows of each split, and errors."""

    ids: list[str]
    labels: list[int]
    rows: dict[str, list[int]] = field(default_factory=dict)
    held_out: list[int] = field(default_factory=list)
    errors: list[dict] = field(default_factory=list)


def load_images(spec: ImageSpec, cache: str, team: Team) -> Images:
    """The images, decoded unless that has been done.

    Raises:
        Refusal: where no image is for training.
    """
    folder = fill_folder(Path(cache) / f"images-{spec.identity}", lambda draft: _decode_shards(spec, draft), team)
    table = SampleTable(**json.loads((folder / "samples.json").read_text()))
    wide = open_array(folder / "wide.u8", (spec.count, 3, *spec.wide_size)) if spec.augmented else np.empty((0,), np.uint8)
    inputs = open_array(folder / "shown.u8", (spec.count, 3, *spec.size))
    rows = {split: table.rows.get(split, []) for split in SPLITS}
    if not rows["val"]:
        held_out = set(table.held_out)
        rows = {**rows, "val": sorted(held_out), "train": [row for row in rows["train"] if row not in held_out]}
    if not rows["train"]:
        reasons = Counter(error["error"] for error in table.errors)
        counts = {split: len(of_split) for split, of_split in table.rows.items()}
        raise Refusal(f"no image is left to train on; of {spec.count}, by split: {counts}, unusable: {dict(reasons)}; see --train-split")
    return Images(spec, tuple(table.ids), np.array(table.labels), rows, wide, inputs, table.errors)


def fill_folder(folder: Path, fill: Callable[[Path], None], team: Team) -> Path:
    """Fill a folder of the cache, as one worker of each machine, unless it is there; it appears whole or not at all."""
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


def open_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike = np.uint8, new: bool = False) -> np.ndarray:
    """A file as an array; rows that were never written take no room."""
    return np.memmap(path, dtype, "w+" if new else "r", shape=shape)


def _decode_shards(spec: ImageSpec, folder: Path) -> None:
    """Decode every image of every shard into arrays, a row each; an unusable image leaves its row empty, and an error."""
    wide = open_array(folder / "wide.u8", (spec.count, 3, *spec.wide_size), new=True) if spec.augmented else np.empty((0,), np.uint8)
    inputs = open_array(folder / "shown.u8", (spec.count, 3, *spec.size), new=True)
    table = SampleTable([""] * spec.count, [-1] * spec.count)
    start = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for shard, index, val in spec.shards:
            table.errors += [problem.to_row() for problem in index.problems]
            try:
                samples = pool.map(partial(_decode_sample, spec, shard, val), sources.read(shard, 0, None, index))
                for row, sample in enumerate(samples, start):
                    _add(table, row, sample)
                    if sample.wide is not None:
                        wide[row] = sample.wide
                    if sample.input is not None:
                        inputs[row] = sample.input
            except sources.ShardError as error:
                table.errors.append(shard.problem(error.error, error.message, "read").to_row())
            start += index.count
    (folder / "samples.json").write_text(json.dumps(vars(table)))


@dataclass(frozen=True)
class _DecodedSample:
    """One sample at the sizes it is needed in."""

    image_id: str
    label: int = -1
    split: str = ""
    held_out: bool = False
    wide: np.ndarray | None = None
    input: np.ndarray | None = None
    problem: sources.Problem | None = None


def _add(table: SampleTable, row: int, sample: _DecodedSample) -> None:
    """Add a sample to the table of samples."""
    table.ids[row] = sample.image_id
    if sample.problem:
        table.errors.append(sample.problem.to_row())
        return
    table.labels[row] = sample.label
    table.rows.setdefault(sample.split, []).append(row)
    table.held_out += [row] if sample.held_out else []


def _decode_sample(spec: ImageSpec, shard: sources.Shard, val: bool, sample: sources.Sample) -> _DecodedSample:
    image_id = shard.image_id(sample.key)
    label, _, problem = resolve(sample.label, spec.classes)
    if sample.image is None or label is None:
        error, message = problem or next(iter(sample.problems), ("MissingLabel", "the sample has no label"))
        stage = "read" if sample.image is None else "label"
        return _DecodedSample(image_id, problem=sources.Problem(image_id, shard.name, stage, error, message))
    split = "val" if val else use_of(sample.split or spec.train_split, spec.train_split)
    held_out = split == "train" and _position(spec, image_id) < spec.val_share
    cropped = spec.augmented and split == "train"
    try:
        wide = decode(sample.image, spec.wide_size, spec.interpolation).pixels if cropped else None
        pixels = decode(sample.image, spec.size, spec.interpolation).pixels if held_out or not cropped else None
    except Undecodable as error:
        return _DecodedSample(image_id, problem=sources.Problem(image_id, shard.name, "decode", error.error, error.message))
    return _DecodedSample(image_id, label, split, held_out, wide, pixels)


def use_of(split: str, train_split: str) -> str:
    """The use of samples of a split, by its usual names: train where it is `train_split`, else val, test or none of these."""
    split, train_split = split_of(split) or split, split_of(train_split) or train_split
    return _written_use(split, train_split)


def _written_use(split: str, train_split: str) -> str:
    """As `use_of`, of names as they are written; samples of `train` that are not for training are unused."""
    if split == train_split:
        return "train"
    return "unused" if split == "train" else split


def _position(spec: ImageSpec, image_id: str) -> float:
    """A number in [0, 1) that seed and id decide."""
    return int(digest([spec.seed, "held out", image_id])[:12], 16) / 16**12
