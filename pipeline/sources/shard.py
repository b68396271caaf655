"""The types between a dataset on disk and the rest of the program: shards, indexes, samples."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline import storage

Box = tuple[float, float, float, float]  # x0 y0 x1 y1 as fractions of the image as shown (after EXIF rotation)
Point = tuple[float, float]  # x y, likewise

MEMBER_LIMIT = 512 << 20  # bytes of one sample's files; a header that claims more is not believed


class SourceError(Exception):
    """Bad input: `error` is a short stable kind, `message` one readable line."""

    def __init__(self, error: str, message: str):
        super().__init__(error, message)
        self.error, self.message = error, message

    def __str__(self) -> str:
        return f"{self.error}: {self.message}"


class ShardError(SourceError):
    """A whole shard cannot be read, or not to the end that was asked for."""


@dataclass(frozen=True)
class Problem:
    """One row of the `errors` table: an image, or a whole shard, that a stage failed at, and why.

    `error` is a short stable kind, `message` one readable line.
    """

    image_id: str | None  # None: it is about the whole shard
    shard: str | None  # None: images of a notebook, which come from no shard
    stage: str
    error: str
    message: str

    def to_row(self) -> dict[str, str | None]:
        """The problem by the columns of the table, in their order."""
        return asdict(self)


@dataclass(frozen=True)
class Shard:
    """One file of many images (a tar, a Parquet file) or one chunk of an image folder, as it was listed."""

    kind: str  # the file in pipeline/sources/ that reads it
    name: str  # path below the sources' common prefix; "" for a folder that is the only source
    urls: tuple[str, ...]
    size: int  # bytes, of all urls together
    etag: str | None = None  # the store's fingerprint of the content, where it has one
    part: str = ""  # tells the chunks of one folder apart: the first key
    root: str = ""  # the folder below which keys of a folder chunk start
    sizes: tuple[int, ...] = ()  # bytes of each url of a folder chunk
    split: str | None = None  # of a folder chunk, where its root is the folder of a split beside others

    def image_id(self, key: str) -> str:
        return f"{self.name}/{key}" if self.name else key

    def problem(self, error: str, message: str, stage: str = "index", key: str | None = None) -> Problem:
        """A row of the errors table about this shard, or about its image `key`."""
        return Problem(None if key is None else self.image_id(key), self.name, stage, error, message)

    def identity(self, digest: str | None = None, restated: bool = False) -> str:
        """A hash of the shard's name, size and content: its etag, or `digest` of its bytes where the store has no etag.

        It is another one where labels are `restated`: such labels were once taken for none.
        """
        content = [self.name, self.size, self.etag or digest]
        return hashlib.sha256(json.dumps([*content, "restated"] if restated else content).encode()).hexdigest()

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict) -> "Shard":
        arguments: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return cls(**arguments)


def open_listed(shard: Shard):
    """Open the shard's file, read front to back.

    Raises:
        ShardError: it is no longer the file that was listed, so its rows would go under a wrong identity.
    """
    handle = storage.open_read(shard.urls[0])
    now = storage.etag(getattr(handle, "details", None) or {})
    size = getattr(handle, "size", None)
    if (shard.etag and now and now != shard.etag) or (size is not None and size != shard.size):
        handle.close()
        raise ShardError("ChangedShard", f"the file changed after it was listed (it had {shard.size:,} bytes)")
    return handle


@dataclass(frozen=True)
class Index:
    """The facts that one pass over a shard gives. Positions count every sample in stored order, the bad ones too."""

    identity: str
    count: int
    labelled: int
    problems: tuple[Problem, ...] = ()
    marks: tuple[tuple[int, int], ...] = ()  # (position, byte offset) now and then, so that a range need not be read from the start
    duplicates: tuple[int, ...] = ()  # positions whose key an earlier sample of the shard has
    splits: tuple[str, ...] = ()  # every `split` that a sample names
    labels: tuple[tuple[int | str, int], ...] = ()  # every label and the number of its samples


@dataclass(frozen=True)
class Sample:
    """One image with what its shard says of it. Without an image, `problems` says why."""

    key: str
    image: bytes | None = None
    label: int | str | None = None
    label_name: str | None = None
    boxes: list[Box] = field(default_factory=list)
    points: dict[str, Point] = field(default_factory=dict)  # of the parts that can be seen
    part_names: tuple[str, ...] = ()  # index i of the member parts.png is part_names[i - 1]
    split: str | None = None
    annotations: dict = field(default_factory=dict)
    members: dict[str, bytes] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()  # (error, message)
    restated: bool = False  # the label is a whole number that is written as another, 3.0


@dataclass(frozen=True)
class Found:
    """A file that a source names."""

    url: str
    name: str  # path below the sources' common prefix
    root: str  # URL of the folder the source names, or of the folder in which it starts to match
    root_name: str  # the same below the common prefix
    size: int
    etag: str | None


@dataclass(frozen=True)
class Kind:
    """One way images are stored. A file in pipeline/sources/ holds one as `KIND`; its name is the file's.

    `shards` cuts the listed files into shards and opens none of them. `index` counts a shard's samples, the bad ones too, and their labels; `read` gives
    those at start <= i < stop, in the same order. A label that is a text needs class names: `labels.folder_names` finds them in the urls of
    shards that have a `root`; those of all other shards the user names in a file (`--classes`), or the network brings them.
    """

    endings: tuple[str, ...]  # of the files it claims, lower case
    shards: Callable[[Sequence[Found]], list[Shard]]
    index: Callable[[Shard], Index]
    read: Callable[[Shard, int, int | None, Index | None], Iterator[Sample]]
