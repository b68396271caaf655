"""The typed messages between the stages of a task. Between processes each message is a row: text and bytes by column.

A task begins as the row {"task": JSON}; reading makes a ReadMessage of it, explaining or scoring an ExplainMessage, and landing the row
{"receipt": JSON}. Every row but the last has the column `task`, so that whoever moves rows knows which task they belong to.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.plan.task import Task
from pipeline.sources.images import DecodedImages, pack_rows, unpack_rows

Stage = Callable[[dict], dict]
NO_IMAGES = DecodedImages(np.empty((0, 3, 1, 1), np.uint8), [], [])


@dataclass(frozen=True)
class ReadMessage:
    """A task with its decoded images, or the `failure` of the whole task.

    `stored_maps` are rows of the table `maps`, where maps are scored as a run holds them. `bytes_read`, `seconds` and `retries` are the
    cost of reading.
    """

    task: Task
    images: DecodedImages = NO_IMAGES
    stored_maps: pa.Table | None = None
    bytes_read: int = 0
    seconds: float = 0.0
    retries: int = 0
    failure: dict | None = None

    def to_row(self) -> dict:
        images = self.images
        plain, codes = pack_rows(images.rows)
        header = {"shape": images.pixels.shape, "rows": plain, "digests": list(images.digests), "errors": list(images.errors)}
        header |= {name: getattr(self, name) for name in ("bytes_read", "seconds", "retries", "failure")}
        return {
            "task": self.task.to_json(),
            "header": json.dumps(header),
            "pixels": images.pixels.tobytes(),
            "codes": codes,
            "stored_maps": b"" if self.stored_maps is None else to_ipc(self.stored_maps),
        }

    @staticmethod
    def from_row(row: Mapping) -> "ReadMessage":
        header = json.loads(row["header"])
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(header["shape"])
        rows = unpack_rows(header["rows"], row["codes"], (pixels.shape[2], pixels.shape[3]))
        return ReadMessage(
            Task.from_json(row["task"]),
            DecodedImages(pixels, rows, header["digests"], header["errors"]),
            from_ipc(row["stored_maps"]) if row["stored_maps"] else None,
            header["bytes_read"],
            header["seconds"],
            header["retries"],
            header["failure"],
        )


class TaskResult(NamedTuple):
    """Rows and errors of one output of one task; `output` is its identity, which the task is part of."""

    output: str
    table: str
    rows: pa.Table
    errors: pa.Table


@dataclass(frozen=True)
class ExplainMessage:
    """A task with the results of its missing outputs and the facts of its receipt, or the `failure` of the whole task."""

    task: Task
    results: Sequence[TaskResult] = ()
    facts: Mapping = field(default_factory=dict)
    failure: dict | None = None

    def to_row(self) -> dict:
        columns = {
            "output": pa.array([result.output for result in self.results], pa.string()),
            "table": pa.array([result.table for result in self.results], pa.string()),
            "rows": pa.array([to_ipc(result.rows) for result in self.results], pa.large_binary()),
            "errors": pa.array([to_ipc(result.errors) for result in self.results], pa.large_binary()),
        }
        header = {"facts": self.facts, "failure": self.failure}
        return {"task": self.task.to_json(), "header": json.dumps(header), "results": to_ipc(pa.table(columns))}

    @staticmethod
    def from_row(row: Mapping) -> "ExplainMessage":
        header = json.loads(row["header"])
        results = [
            TaskResult(entry["output"], entry["table"], from_ipc(entry["rows"]), from_ipc(entry["errors"]))
            for entry in from_ipc(row["results"]).to_pylist()
        ]
        return ExplainMessage(Task.from_json(row["task"]), results, header["facts"], header["failure"])


def read_failure(row: Mapping, failure: dict) -> dict:
    """The row of a task that failed as a whole while it was read."""
    return ReadMessage(Task.from_json(row["task"]), failure=failure).to_row()


def explain_failure(row: Mapping, failure: dict) -> dict:
    """The row of a task that failed as a whole while it was read or explained."""
    return ExplainMessage(Task.from_json(row["task"]), failure=failure).to_row()


def to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(content: bytes) -> pa.Table:
    """The table of an Arrow stream."""
    return pa.ipc.open_stream(content).read_all()
