"""Receipts -> a published run: the rows of fixed groups of tasks, compacted into plain Parquet that any engine reads.

A task's scores come out as `metrics`, one column a metric; its partials are added up.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.tables import files, schema
from pipeline.tables import receipts as tasks
from pipeline.tables.errors import deduplicated
from pipeline.tables.identity import digest
from pipeline.tables.receipts import Receipt, TaskOutput, parquet_bytes
from pipeline.tables.wide import add_partials, widen

GROUP_TASKS = 64
PUBLISHED = {"scores": "metrics"}
ROWS_PER_GROUP = 65_536


@dataclass(frozen=True)
class CompactionContext:
    """What all groups are compacted on: the place, the columns of the run's metrics, and the `previous` run with its files by path."""

    out: str
    columns: Sequence[str]
    previous: str | None
    before: Mapping[str, dict]


def boundaries(shards: Iterable[str]) -> set[str]:
    """The shards a new group starts at, decided by their names alone, so that an added shard changes one group."""
    return {shard for shard in shards if int(digest(shard), 16) % GROUP_TASKS == 0}


def file_name(table: str, partition: str | None, members: Sequence[TaskOutput], columns: Sequence[str]) -> str:
    """A published file's path within its run, named by the cells in it and, for metrics, by its columns."""
    folder = f"{table}/{schema.PARTITIONED[table]}={partition}" if partition else table
    cells = [member.cell for member in members]
    return f"{folder}/part-{digest([cells, list(columns)] if table == 'metrics' else cells)}.parquet"


def pieces(group: Sequence[TaskOutput], columns: Sequence[str]) -> dict[str, tuple[str, list[TaskOutput]]]:
    """The files of one group: path -> (table, its members). Partials are no file of a group: they are added up over all."""
    gathered: dict[tuple[str, str | None], list[TaskOutput]] = {}
    for member in group:
        table = PUBLISHED.get(member.part.table, member.part.table)
        if member.part.rows and table != "partials":
            gathered.setdefault((table, member.partition), []).append(member)
        if member.part.error_rows:
            gathered.setdefault(("errors", None), []).append(member)
    return {file_name(table, partition, members, columns): (table, members) for (table, partition), members in gathered.items()}


def compact(ground: CompactionContext, run: str, group: Sequence[TaskOutput]) -> list[dict]:
    """Write one group's files into `run`, copying those that are the same in the previous one.

    Returns each file's entry for run.json.

    Raises:
        Damaged: where a task's file is missing or not what its receipt says.
    """
    entries, opened, out, before = [], {}, ground.out, ground.before
    for path, (table, members) in pieces(group, ground.columns).items():
        goal = storage.join(out, "runs", run, path)
        if path in before and _copied(storage.join(out, "runs", ground.previous, path), goal, before[path]["bytes"]):
            entries.append(before[path])
            continue
        rows = pa.concat_tables([_rows(out, member, "scores" if table == "metrics" else table, opened) for member in members])
        if table == "metrics":
            rows = widen(rows, ground.columns)
        entries.append(write(goal, path, table, rows))
    return entries


def _copied(source: str, goal: str, size: int) -> bool:
    """Copy a published file; False where it is no longer there in full, and must be made anew."""
    try:
        files.copy(source, goal)
    except FileNotFoundError:
        return False
    fs, path = storage.filesystem(goal)
    return storage.infos(fs, [path])[0]["size"] == size


def damaged_folders(ground: CompactionContext, group: Sequence[TaskOutput]) -> set[str]:
    """Folders of the receipts that the files of one group need, and that are missing or not what was written."""
    needed = {
        (member.receipt.folder, table): member.receipt
        for path, (_, members) in pieces(group, ground.columns).items()
        if path not in ground.before
        for member in members
        for table in member.receipt.files
    }
    needed |= {(member.receipt.folder, "partials"): member.receipt for member in group if "partials" in member.receipt.files}
    return {folder for (folder, table), receipt in needed.items() if not _sound(ground.out, receipt, table)}


def _sound(out: str, receipt: Receipt, table: str) -> bool:
    try:
        tasks.fetch(out, receipt, table)
    except tasks.Damaged:
        return False
    return True


def sum_partials(out: str, numbered: tuple[int, Sequence[TaskOutput]]) -> tuple[int, pa.Table]:
    """The partials of one group added up in the order of their cells' identities, with the number the group was given."""
    number, group = numbered
    opened: dict = {}
    members = sorted((m for m in group if m.part.table == "partials" and m.part.rows), key=lambda member: member.cell)
    rows = [_rows(out, member, "partials", opened) for member in members]
    return number, add_partials(pa.concat_tables([schema.PARTIALS.empty_table(), *rows]))


def write(goal: str, path: str, table: str, rows: pa.Table) -> dict:
    """One published file, sorted by image where there are images; returns its entry for run.json."""
    if table == "errors":
        rows = deduplicated(rows)
    elif "image_id" in rows.column_names:
        rows = rows.sort_by([(key, "ascending") for key in ("image_id", "target") if key in rows.column_names])
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


def _rows(out: str, member: TaskOutput, table: str, opened: dict) -> pa.Table:
    key = (member.receipt.folder, table)
    if key not in opened:
        opened[key] = tasks.fetch(out, member.receipt, table)
    return opened[key].read_row_group(member.part.error_group if table == "errors" else member.part.group)
