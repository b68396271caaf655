"""A task: a range of a shard's images, and its missing outputs."""

import json
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.refusal import one_line
from pipeline.sources import Index, Shard, ShardError
from pipeline.tables.identity import digest


@dataclass(frozen=True)
class Task:
    """A range of a shard's images, and its missing outputs by their positions in the job's list.

    `stored_maps` are the row groups of stored maps that missing outputs are computed from: each a file as receipts name it, and a number.
    `chosen` are the positions of its images, where it has not all of the range.
    """

    shard: Shard
    index: Index
    start: int
    stop: int
    missing: tuple[int, ...] = ()
    stored_maps: tuple[tuple[dict, int], ...] = ()
    chosen: tuple[int, ...] = ()

    @staticmethod
    def of(shard: Shard, index: Index, start: int, stop: int, chosen: tuple[int, ...] = ()) -> "Task":
        """The task of one range, with the part of the shard's index that concerns that range."""
        marks = tuple(mark for mark in index.marks if mark[0] <= start)[-1:]
        duplicates = tuple(position for position in index.duplicates if start <= position < stop)
        part = replace(index, problems=(), marks=marks, duplicates=duplicates, splits=(), labels=())
        return Task(shard, part, start, stop, chosen=chosen)

    @cached_property
    def id(self) -> str:
        sample = {"chosen": self.chosen} if self.chosen else {}
        return digest({"shard": self.index.identity, "start": self.start, "stop": self.stop, **sample})

    @property
    def count(self) -> int:
        """The number of its images."""
        return len(self.chosen) or self.stop - self.start

    def output_identity(self, identity: str) -> str:
        """The identity of one of this task's outputs, from that of the output of any task."""
        return digest([self.id, identity])

    def failure(self, error: Exception, stage: str) -> dict:
        """The problem because of which nothing of this task is landed, with the task and its count of images; a later run tries it again."""
        kind = error.error if isinstance(error, ShardError) else type(error).__name__
        row = self.shard.problem(kind, one_line(error), stage).to_row()
        return {"task": self.id, "images": self.count, **row}

    def to_json(self) -> str:
        plain = {name: getattr(self, name) for name in ("start", "stop", "missing", "stored_maps", "chosen")}
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
            tuple(map(tuple, fields["stored_maps"])),
            tuple(fields["chosen"]),
        )
