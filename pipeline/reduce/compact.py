"""Receipts -> a published run: the rows of fixed groups of tasks, compacted into plain Parquet that any engine reads.

A task's scores come out as `metrics`, one column a metric; its partials are added up.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.tables import files, receipts, schema
from pipeline.tables.errors import deduplicate
from pipeline.tables.identity import digest
from pipeline.tables.lake.location import Location
from pipeline.tables.receipts import Receipt, TaskOutput, parquet_bytes
from pipeline.tables.wide import add_partials, widen

GROUP_TASKS = 64
PUBLISHED = {"scores": "metrics"}
ROWS_PER_GROUP = 65_536


@dataclass(frozen=True)
class CompactionContext:
    """The facts that all groups of a run share.

    Attributes:
        columns: the columns of the run's metrics.
        previous: the place of the run published before.
        previous_files: the entries of that run's files, by path within it.
    """

    out: str
    columns: Sequence[str]
    previous: Location | None
    previous_files: Mapping[str, dict]


def group_starts(shards: Iterable[str]) -> set[str]:
    """The shards a new group starts at. Their names alone decide it, so that an added shard changes one group."""
    return {shard for shard in shards if int(digest(shard), 16) % GROUP_TASKS == 0}


def file_name(table: str, partition: str | None, outputs: Sequence[TaskOutput], columns: Sequence[str]) -> str:
    """A published file's path within its run, named by the cells in it, for metrics by its columns, and by the version of its types."""
    folder = f"{table}/{schema.PARTITIONED[table]}={partition}" if partition else table
    cells = [output.cell for output in outputs]
    more = [list(columns)] if table == "metrics" else [schema.VERSIONS[table]] if table in schema.VERSIONS else []
    return f"{folder}/part-{digest([cells, *more] if more else cells)}.parquet"


def files_of(group: Sequence[TaskOutput], columns: Sequence[str]) -> dict[str, tuple[str, list[TaskOutput]]]:
    """The files of one group: path -> (table, outputs in it). Partials are no file of a group: they are added up over all."""
    by_file: dict[tuple[str, str | None], list[TaskOutput]] = {}
    for output in group:
        table = PUBLISHED.get(output.row_groups.table, output.row_groups.table)
        if output.row_groups.rows and table != "partials":
            by_file.setdefault((table, output.partition), []).append(output)
        if output.row_groups.error_rows:
            by_file.setdefault(("errors", None), []).append(output)
    return {file_name(table, partition, outputs, columns): (table, outputs) for (table, partition), outputs in by_file.items()}


def compact(context: CompactionContext, location: Location, group: Sequence[TaskOutput]) -> list[dict]:
    """Write one group's files to the place of its run, copying those that are the same in the previous one.

    Returns each file's entry for run.json.

    Raises:
        Damaged: where a task's file is missing or not what its receipt says.
    """
    entries, reader = [], _TaskFiles(context.out)
    for path, (table, outputs) in files_of(group, context.columns).items():
        entry = copy_previous(context, location, path)
        if entry:
            entries.append(entry)
            continue
        rows = pa.concat_tables([reader.rows(output, "scores" if table == "metrics" else table) for output in outputs])
        if table == "metrics":
            rows = widen(rows, context.columns)
        entries.append(write_table(location.url(path), path, table, rows))
    return entries


def copy_previous(context: CompactionContext, location: Location, path: str) -> dict | None:
    """Copy a file of the previous run, by its path in run.json, to the place of another; returns its entry, None where there is none to copy."""
    entry = context.previous_files.get(path)
    return entry if entry and context.previous and _copy(context.previous.url(path), location.url(path), entry["bytes"]) else None


def _copy(source: str, target: str, size: int) -> bool:
    """Copy a published file; False where it is no longer there in full, and must be made anew."""
    try:
        files.copy(source, target)
    except FileNotFoundError:
        return False
    fs, path = storage.filesystem(target)
    return storage.infos(fs, [path])[0]["size"] == size


def damaged_folders(context: CompactionContext, group: Sequence[TaskOutput]) -> set[str]:
    """Folders of the receipts that the files of one group need, and whose own files are missing or not what was written."""
    needed = {
        (output.receipt.folder, table): output.receipt
        for path, (_, outputs) in files_of(group, context.columns).items()
        if path not in context.previous_files
        for output in outputs
        for table in output.receipt.files
    }
    needed |= {(output.receipt.folder, "partials"): output.receipt for output in group if "partials" in output.receipt.files}
    return {folder for (folder, table), receipt in needed.items() if not _sound(context.out, receipt, table)}


def _sound(out: str, receipt: Receipt, table: str) -> bool:
    try:
        receipts.fetch(out, receipt, table)
    except receipts.Damaged:
        return False
    return True


def sum_partials(out: str, numbered_group: tuple[int, Sequence[TaskOutput]]) -> tuple[int, pa.Table]:
    """The partials of one group added up in the order of their cells' identities, with the group's number."""
    number, group = numbered_group
    reader = _TaskFiles(out)
    outputs = sorted((o for o in group if o.row_groups.table == "partials" and o.row_groups.rows), key=lambda output: output.cell)
    rows = [reader.rows(output, "partials") for output in outputs]
    return number, add_partials(pa.concat_tables([schema.PARTIALS.empty_table(), *rows]))


def write_table(url: str, path: str, table: str, rows: pa.Table) -> dict:
    """Write one published file, sorted by image where there are images; returns its entry for run.json."""
    rows = schema.plain(rows)
    if table == "errors":
        rows = deduplicate(rows)
    elif "image_id" in rows.column_names:
        rows = rows.sort_by([(key, "ascending") for key in ("image_id", "target") if key in rows.column_names])
    incomplete = {"incomplete": _incomplete(rows)} if table == "errors" else {}
    column = schema.PARTITIONED.get(table)
    if column:
        rows = rows.drop_columns([column])
    chunks = [rows.slice(start, ROWS_PER_GROUP) for start in range(0, max(1, rows.num_rows), ROWS_PER_GROUP)]
    content = parquet_bytes([chunk.combine_chunks() for chunk in chunks])
    files.write_bytes(url, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return {"path": path, "table": table, "rows": rows.num_rows, "bytes": len(content), "sha256": sha256, **incomplete}


def _incomplete(errors: pa.Table) -> int:
    """The number of images that have a prediction but lack a map."""
    return pc.count_distinct(errors.filter(pc.is_in(errors["stage"], pa.array(["target", "map"])))["image_id"]).as_py()


class _TaskFiles:
    """Files of tasks, read once each."""

    def __init__(self, out: str):
        self.out = out
        self.opened: dict[tuple[str, str], pq.ParquetFile] = {}

    def rows(self, output: TaskOutput, table: str) -> pa.Table:
        """The rows that an output has in a table."""
        key = (output.receipt.folder, table)
        if key not in self.opened:
            self.opened[key] = receipts.fetch(self.out, output.receipt, table)
        groups = output.row_groups
        return schema.plain(self.opened[key].read_row_group(groups.error_group if table == "errors" else groups.group))
