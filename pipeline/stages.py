"""What happens to a task before and after it is explained, wherever it runs: it is read, and it is landed.

A task travels as one row: `task` (JSON), `samples` (JSON), `pixels` and `codes` (bytes), `maps` (Arrow, where stored ones are scored), then `task`
and `answers` (Arrow), then `receipt` (JSON).
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.refusal import one_line
from pipeline.sources import Index, Sample, Shard, ShardError, read
from pipeline.sources.decode import Picture, Undecodable, decode
from pipeline.sources.images import Pictures, packed
from pipeline.sources.labels import Classes, resolve
from pipeline.tables import receipts
from pipeline.tables.identity import digest

Stage = Callable[[dict], dict]


@dataclass(frozen=True)
class Task:
    """A range of a shard's images, and which of its cells (by position in the plan's list) are still missing.

    `maps` says where the stored maps lie that cells are computed from: files as receipts name them, and a row group of each.
    """

    shard: Shard
    index: Index
    start: int
    stop: int
    missing: tuple[int, ...] = ()
    maps: tuple[tuple[dict, int], ...] = ()

    @staticmethod
    def of(shard: Shard, index: Index, start: int, stop: int) -> "Task":
        """The task of one range; of the shard's index it keeps what concerns that range."""
        marks = tuple(mark for mark in index.marks if mark[0] <= start)[-1:]
        duplicates = tuple(position for position in index.duplicates if start <= position < stop)
        return Task(shard, replace(index, problems=(), marks=marks, duplicates=duplicates), start, stop)

    @cached_property
    def id(self) -> str:
        return digest({"shard": self.index.identity, "start": self.start, "stop": self.stop})

    def cell(self, identity: str) -> str:
        """The identity of one of this task's cells."""
        return digest([self.id, identity])

    def failure(self, error: Exception, stage: str) -> dict:
        """Why nothing of this task is landed; a later run tries it again."""
        kind = error.error if isinstance(error, ShardError) else type(error).__name__
        return {
            "task": self.id,
            "shard": self.shard.name,
            "stage": stage,
            "error": kind,
            "message": one_line(error),
            "images": self.stop - self.start,
        }

    def to_json(self) -> str:
        plain = {name: getattr(self, name) for name in ("start", "stop", "missing", "maps")}
        return json.dumps({**plain, "shard": vars(self.shard), "index": vars(self.index)})

    @staticmethod
    def from_json(text: str) -> "Task":
        fields = json.loads(text)
        index = fields["index"]
        marks = tuple(map(tuple, index["marks"]))
        return Task(
            Shard.from_json(fields["shard"]),
            Index(index["identity"], index["count"], index["labelled"], (), marks, tuple(index["duplicates"])),
            fields["start"],
            fields["stop"],
            tuple(fields["missing"]),
            tuple(map(tuple, fields["maps"])),
        )


@dataclass(frozen=True)
class Read:
    """Task -> its decoded pictures. What cannot be read is told in `samples`, and everything else is there."""

    size: tuple[int, int]
    interpolation: str
    crop: str
    crop_pct: float
    classes: Classes
    names_are_labels: bool = True
    out: str = ""

    def __call__(self, row: dict) -> dict:
        started, before, task = time.perf_counter(), storage.retries(), Task.from_json(row["task"])
        try:
            # Reading goes on over the same bytes from the start: what broke off in the middle of a file is no single request.
            pictures, size = storage.retrying(lambda: self._pictures(task))
            maps = to_ipc(receipts.row_groups(self.out, task.maps)) if task.maps else b""
        except Exception as error:
            return unread(row, task.failure(error, "read"))
        rows, codes = packed(pictures.rows)
        told = {"rows": rows, "digests": pictures.digests, "errors": pictures.errors, "bytes": size}
        told |= {"seconds": time.perf_counter() - started, "retries": storage.retries() - before}
        return {"task": row["task"], "pixels": pictures.pixels.tobytes(), "codes": codes, "maps": maps, "samples": json.dumps(told)}

    def _pictures(self, task: Task) -> tuple[Pictures, int]:
        """The task's pictures, and the bytes they were encoded in."""
        pixels, rows, digests, errors, size = [], [], [], [], 0
        for sample in read(task.shard, task.start, task.stop, task.index):
            image_id = task.shard.image_id(sample.key)

            def fail(stage: str, error: str, message: str, image_id: str = image_id) -> None:
                errors.append({"image_id": image_id, "shard": task.shard.name, "stage": stage, "error": error, "message": message})

            for error, message in sample.problems:
                fail("read", error, message)
            if sample.image is None:
                continue
            size += len(sample.image)
            given = sample.label if self.names_are_labels or not isinstance(sample.label, str) else None
            label, name, problem = resolve(given, self.classes)
            if problem:
                fail("label", *problem)
            try:
                picture = decode(sample.image, self.size, self.interpolation, self.crop, self.crop_pct)
            except Undecodable as error:
                fail("decode", error.error, error.message)
                continue
            pixels.append(picture.pixels)
            digests.append(hashlib.sha256(sample.image).hexdigest())
            rows.append(
                {
                    "image_id": image_id,
                    "shard": task.shard.name,
                    "key": sample.key,
                    "width": picture.width,
                    "height": picture.height,
                    "label": label,
                    "label_name": sample.label_name or name,
                    "boxes": [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in picture.boxes(sample.boxes)],
                    "split": sample.split,
                    "points": picture.points(sample.points),
                    **_codes(picture, sample, fail),
                }
            )
        stack = np.stack(pixels) if pixels else np.empty((0, 3, *self.size), np.uint8)
        return Pictures(stack, rows, digests, errors), size


def unread(row: dict, failure: dict) -> dict:
    """What reading a task comes to where it fails as a whole."""
    return {"task": row["task"], "pixels": b"", "codes": b"", "maps": b"", "samples": json.dumps({"failure": failure})}


def unanswered(row: dict, failure: dict) -> dict:
    """What explaining a task comes to where it fails as a whole."""
    return {"task": row["task"], "answers": [], "facts": json.dumps({"failure": failure})}


def _codes(picture: Picture, sample: Sample, fail: Callable) -> dict:
    """The annotations that come as images, None where there is none; one that is damaged is told, and the image goes on without it."""
    found = {}
    for name in ("mask", "parts"):
        found[name] = None
        png = sample.members.get(f"{name}.png")
        try:
            found[name] = None if png is None else picture.codes(png)
        except Undecodable as error:
            fail("decode", error.error, f"{name}.png: {error.message}")
    if found["parts"] is not None and found["parts"].max() > len(sample.part_names):
        fail("decode", "BadMask", f"parts.png: it holds {found['parts'].max()}, and part_names has {len(sample.part_names)} names")
        found["parts"] = None
    # pixels go to the nearest point, as far as the object reaches
    nearest = found["mask"] is not None and found["parts"] is None and sample.points
    found["silhouette"] = picture.silhouette(sample.members["mask.png"]) if nearest else None
    return {**found, "has_mask": found["mask"] is not None, "part_names": sample.part_names}


@dataclass(frozen=True)
class Land:
    """Answers -> files and a receipt below `out`."""

    out: str

    def __call__(self, row: dict) -> dict:
        facts = json.loads(row["facts"])
        if "failure" in facts:
            return {"receipt": json.dumps(facts)}
        parts = list(row["answers"])
        answers = [
            (str(cell, "ascii"), str(table, "ascii"), from_ipc(rows), from_ipc(errors))
            for cell, table, rows, errors in zip(*(parts[i::4] for i in range(4)), strict=True)
        ]
        task = Task.from_json(row["task"])
        try:
            return {"receipt": receipts.land(self.out, task.id, answers, facts).to_json()}
        except Exception as error:  # a full disk, a store that stays away: the other tasks may still land
            return {"receipt": json.dumps({"failure": task.failure(error, "land")})}


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(content).read_all()
