"""A layout: the official files of a dataset on disk, and the annotations that they give every image."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.datasets.layouts.tree import Tree

SPLITS = ("train", "val", "test")
SHOWN = (1.0, 1.0)  # the frame of boxes that are fractions of the image as it is shown already

Box = tuple[float, float, float, float]  # x0 y0 x1 y1, the far edge outside


@dataclass(frozen=True)
class Record:
    """One image and its annotations by the layout's tables; boxes and points are in pixels of the image as it is stored."""

    image: str  # path below the root
    label: int | None
    split: str
    where: str  # the file and line that name it
    boxes: tuple[Box, ...] = ()
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)  # visible points only
    part_names: tuple[str, ...] = ()  # of the index image: 1 is the first
    attributes: tuple[float, ...] | None = None
    frame: tuple[float, float] | None = None  # width and height that boxes and points are measured in; None: the image's own
    files: tuple[tuple[str, str], ...] = ()  # what each is and its path: files of this image alone, which `Layout.read_files` reads
    name: str | None = None  # what the key is made of; the image's path by default

    @property
    def paths(self) -> tuple[str, ...]:
        """The image and the files beside it."""
        return (self.image, *(path for _, path in self.files))


@dataclass(frozen=True)
class FileAnnotations:
    """The annotations that the image's own files add to the tables."""

    boxes: tuple[Box, ...] = ()
    frame: tuple[float, float] | None = None
    mask: np.ndarray | None = None  # uint8 [H W]: 0 ground, 128 neither, all else the object
    parts: np.ndarray | None = None  # uint8 [H W]: 0 nothing, i = part_names[i - 1]


@dataclass(frozen=True)
class Dataset:
    """A dataset as its tables describe it."""

    classes: tuple[str, ...]  # in the official order; a record's label is a position in it
    records: Callable[[], Iterable[Record]]  # the same ones in the same order every time
    attributes: tuple[Sequence[str], Sequence[Sequence[float]]] | None = None  # names; a fraction per attribute of every class


@dataclass(frozen=True)
class Layout:
    """One way datasets lie on disk. A file in pipeline/datasets/layouts/ holds one as `LAYOUT`; its name is the file's.

    `read_files` gets a record and the contents of its `files`, on the worker that packs it.
    """

    recognises: Callable[[Tree], bool]
    dataset: Callable[[Tree, Any], Dataset]  # the tree, and the level: one of `levels`, or None where there is none
    levels: tuple[str, ...] | None = ()  # what classes may be, the first by default; None: what the files name
    read_files: Callable[[Record, Sequence[bytes]], FileAnnotations] | None = None
    aliases: tuple[str, ...] = ()
    last: bool = False  # recognised only where no other layout is
