"""What happens to a task before and after it is explained, wherever it runs: it is read, and it is landed.

A task travels as one row: `task` (JSON), `samples` (JSON), `pixels` and `codes` (bytes), `maps` (Arrow, where stored ones are scored), then `task`
and `answers` (Arrow), then `receipt` (JSON).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.plan.task import Task
from pipeline.tables import receipts

Stage = Callable[[dict], dict]


def unanswered(row: dict, failure: dict) -> dict:
    """What explaining a task comes to where it fails as a whole."""
    return {"task": row["task"], "answers": [], "facts": json.dumps({"failure": failure})}


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
