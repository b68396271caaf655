"""The images of some classes with everything that a run says of them, one after the other.

h w cells of a map, H W pixels of the network's input
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.maps.boxes import clipped
from pipeline.maps.quantise import dequantise
from pipeline.maps.render import FLAT, upsample
from pipeline.reduce.analyses.rows import Rows
from pipeline.tables.identity import digest

BUCKETS = 64  # units of the classes; a class is in one of them, and so are few others
READ = {  # the columns that an `Image` is made of; the last ones are lists of numbers
    "images": ("image_id", "label", "boxes"),
    "predictions": ("image_id", "predicted"),
    "maps": (
        *("image_id", "model", "method", "target", "class_id", "reference_ids"),
        *("height", "width", "map_min", "map_max", "render", "map"),
    ),
    "features": ("image_id", "model", "feature"),
}
WIDE = {"maps": "map", "features": "feature"}
Group = Mapping[str, Rows]  # the files of one group of tasks, by table


@dataclass(frozen=True)
class StoredMap:
    """A map of an image as the tables keep it: levels [h w] between the least and the largest value."""

    model: str
    method: str
    target: str
    class_id: int | None
    reference_ids: tuple[int, ...]
    levels: np.ndarray
    low: float
    high: float
    render: str

    @property
    def cells(self) -> np.ndarray:
        """The map's values [h w]."""
        return dequantise(self.levels, self.low, self.high, *self.levels.shape)

    @property
    def question(self) -> tuple:
        """The class that it explains and those that it is told from, or else its target: two maps of one question are one map."""
        return (self.class_id, self.reference_ids) if self.class_id is not None else (self.target,)

    @property
    def constant(self) -> bool:
        """Whether nothing but rounding lies between its least and its largest value."""
        return self.high - self.low <= FLAT * max(abs(self.low), abs(self.high))

    def drawn(self, size: tuple[int, int]) -> np.ndarray:
        """The map at `size` as metrics see it before it is normalised: float32 [H W]."""
        import torch

        return upsample(torch.from_numpy(self.cells)[None], size, self.render)[0].numpy()


@dataclass(frozen=True)
class Image:
    """An image, its truth and its answers.

    Attributes:
        size: (H, W), pixels of the network's input.
        predicted: None where there are no classes, or where the network failed.
        boxes: [N 4] as fractions of the image, clipped to it.
        feature: in front of the classifier; None where the run has none, or no analysis asks.
    """

    image_id: str
    size: tuple[int, int]
    label: int | None = None
    predicted: int | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    maps: Sequence[StoredMap] = ()
    feature: np.ndarray | None = None


def bucket_of(label: int | None, image_id: str) -> str:
    """The unit that an image belongs to: that of its class, or one by its id where it has no label."""
    return str(label % BUCKETS) if label is not None else f"none-{int(digest(image_id), 16) % BUCKETS}"


def read_images(groups: Sequence[Group], bucket: str, size: tuple[int, int]) -> Iterator[Image]:
    """The images of one unit, sorted within each group of tasks; the maps of one group are in memory at once."""
    for group in groups:
        rows = group["images"].read(*READ["images"]).to_pylist() if "images" in group else []
        rows = [row for row in rows if bucket_of(row["label"], row["image_id"]) == bucket]
        if not rows:
            continue
        keep = pa.array([row["image_id"] for row in rows], pa.string())
        predicted = {row["image_id"]: row["predicted"] for row in _plain(group, "predictions", keep)}
        maps: dict[str, list[StoredMap]] = {}
        for image_id, stored in read_maps(group["maps"], keep) if "maps" in group else ():
            maps.setdefault(image_id, []).append(stored)
        features = {row["image_id"]: values for row, values in _wide(group["features"], keep)} if "features" in group else {}
        for row in rows:
            name = row["image_id"]
            boxes = clipped([box[side] for side in ("x0", "y0", "x1", "y1")] for box in row["boxes"] or ())
            of_image = sorted(maps.get(name, ()), key=lambda stored: (stored.target, stored.method))
            yield Image(name, size, row["label"], predicted.get(name), boxes, of_image, features.get(name))


def read_maps(rows: Rows, keep: pa.Array | None = None) -> Iterator[tuple[str, StoredMap]]:
    """Maps with the ids of their images, in the order of the files; of the images `keep` alone where these are given."""
    for row, values in _wide(rows, keep):
        levels = values.astype(np.uint8).reshape(row["height"], row["width"])
        names = (row["model"], row["method"], row["target"], row["class_id"], tuple(row["reference_ids"] or ()))
        yield row["image_id"], StoredMap(*names, levels, row["map_min"], row["map_max"], row["render"])


def _plain(group: Group, table: str, keep: pa.Array | None = None) -> Iterator[dict]:
    for batch in group[table].batches(*READ[table], keep=keep) if table in group else ():
        yield from batch.to_pylist()


def _wide(table: Rows, keep: pa.Array | None = None) -> Iterator[tuple[dict, np.ndarray]]:
    """Rows of a table without its column of lists, each with its list."""
    column = WIDE[table.table]
    for batch in table.batches(*READ[table.table], keep=keep):
        lists = batch[column].combine_chunks()
        values = lists.flatten().to_numpy()
        ends = np.cumsum([len(values) // batch.num_rows] * batch.num_rows) if pa.types.is_fixed_size_list(lists.type) else None
        ends = lists.offsets.to_numpy()[1:] - lists.offsets[0].as_py() if ends is None else ends
        starts = [0, *ends[:-1].tolist()]
        for row, start, end in zip(batch.drop_columns([column]).to_pylist(), starts, ends.tolist(), strict=True):
            yield row, values[start:end]


def fingerprints(tables: Sequence[str], group: Group) -> dict[str, dict[str, int]]:
    """Bucket -> table -> the sum of hashes of its rows in one group of tasks, of all that an `Image` has of them.

    Sums of groups add up to those of a run, however its tasks are grouped.
    """
    sums: dict[str, dict[str, int]] = {}
    buckets: dict[str, str] = {}
    for row in _plain(group, "images"):
        buckets[row["image_id"]] = bucket = bucket_of(row["label"], row["image_id"])
        _add(sums, bucket, "images", row, b"")
    for table in tables:
        if table != "images" and table in group:
            rows = _wide(group[table]) if table in WIDE else ((row, np.zeros(0)) for row in _plain(group, table))
            for row, values in rows:
                _add(sums, buckets[row["image_id"]], table, row, values.tobytes())
    return sums


def _add(sums: dict[str, dict[str, int]], bucket: str, table: str, row: dict, values: bytes) -> None:
    of_bucket = sums.setdefault(bucket, {})
    number = hashlib.blake2b(repr(sorted(row.items())).encode() + values, digest_size=16).digest()
    of_bucket[table] = (of_bucket.get(table, 0) + int.from_bytes(number)) % 2**128
