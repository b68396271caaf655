"""Receipts -> a published run: the rows of fixed groups of tasks, compacted into plain Parquet that any engine reads."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.tables import files, schema
from pipeline.tables import receipts as tasks
from pipeline.tables.errors import told_once
from pipeline.tables.identity import digest
from pipeline.tables.receipts import Part, Receipt, parquet_bytes

GROUP_TASKS = 64
ROWS_PER_GROUP = 65_536


@dataclass(frozen=True)
class Member:
    """One cell of one task in a group: its identity, its partition (a method, or none) and the receipt that answers it."""

    cell: str
    partition: str | None
    receipt: Receipt

    @property
    def part(self) -> Part:
        return self.receipt.cells[self.cell]


def boundaries(shards: Iterable[str]) -> set[str]:
    """The shards a new group starts at, decided by their names alone, so that an added shard changes one group."""
    return {shard for shard in shards if int(digest(shard), 16) % GROUP_TASKS == 0}


def file_name(table: str, partition: str | None, members: Sequence[Member]) -> str:
    """A published file's path within its run, named by the cells in it."""
    folder = f"{table}/{schema.PARTITIONED[table]}={partition}" if partition else table
    return f"{folder}/part-{digest([member.cell for member in members])}.parquet"


def pieces(group: Sequence[Member]) -> dict[str, tuple[str, list[Member]]]:
    """The files of one group: path -> (table, its members)."""
    gathered: dict[tuple[str, str | None], list[Member]] = {}
    for member in group:
        if member.part.rows:
            gathered.setdefault((member.part.table, member.partition), []).append(member)
        if member.part.error_rows:
            gathered.setdefault(("errors", None), []).append(member)
    return {file_name(table, partition, members): (table, members) for (table, partition), members in gathered.items()}


def compact(out: str, run: str, before: Mapping[str, dict], previous: str | None, group: Sequence[Member]) -> list[dict]:
    """Write one group's files into `run`, copying those that are the same from the `previous` run, whose entries are `before`.

    Returns each file's entry for run.json.

    Raises:
        Damaged: where a task's file is missing or not what its receipt says.
    """
    entries, opened = [], {}
    for path, (table, members) in pieces(group).items():
        goal = storage.join(out, "runs", run, path)
        if path in before:
            files.copy(storage.join(out, "runs", previous, path), goal)
            entries.append(before[path])
            continue
        rows = pa.concat_tables([_rows(out, member, table, opened) for member in members])
        entries.append(write(goal, path, table, rows))
    return entries


def write(goal: str, path: str, table: str, rows: pa.Table) -> dict:
    """One published file, sorted by image; returns its entry for run.json."""
    rows = (
        told_once(rows)
        if table == "errors"
        else rows.sort_by([(key, "ascending") for key in ("image_id", "target") if key in rows.column_names])
    )
    incomplete = _incomplete(rows) if table == "errors" else None
    column = schema.PARTITIONED.get(table)
    if column:
        rows = rows.drop_columns([column])
    chunks = [rows.slice(start, ROWS_PER_GROUP) for start in range(0, max(1, rows.num_rows), ROWS_PER_GROUP)]
    content = parquet_bytes([chunk.combine_chunks() for chunk in chunks])
    files.write_bytes(goal, content)
    entry = {"path": path, "table": table, "rows": rows.num_rows, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return entry if incomplete is None else {**entry, "incomplete": incomplete}


def _incomplete(errors: pa.Table) -> int:
    """How many images have a prediction but lack a map."""
    return pc.count_distinct(errors.filter(pc.is_in(errors["stage"], pa.array(["target", "map"])))["image_id"]).as_py()


def _rows(out: str, member: Member, table: str, opened: dict) -> pa.Table:
    key = (member.receipt.folder, table)
    if key not in opened:
        opened[key] = tasks.fetch(out, member.receipt, table)
    return opened[key].read_row_group(member.part.error_group if table == "errors" else member.part.group)
