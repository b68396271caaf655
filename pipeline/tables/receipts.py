"""Receipts: the finished cells of a task and the files they are in. A file counts only through a receipt that names it.

<out>/tasks/<2 hex>/<task>/<hash of its cells>/<table>.parquet + receipt.json     (immutable; the receipt is written last)

A receipt counts only while its files are there in full; the cells of one that does not are computed again, under the same name.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from sys import intern
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.refusal import counted
from pipeline.tables import files, schema
from pipeline.tables.identity import digest

log = logging.getLogger(__name__)
FORMAT = 2
LISTED_AT_ONCE = 16
PACKED_AT_ONCE = 4096
IDENTITY = 32  # characters of an identity


@dataclass(frozen=True, slots=True)
class RowGroups:
    """The row groups of the receipt's files that hold one cell's rows and errors (-1: none), and their numbers of rows."""

    table: str
    group: int
    rows: int
    error_group: int
    error_rows: int


_shared_row_groups = lru_cache(PACKED_AT_ONCE)(RowGroups)  # tasks are alike, and a driver may hold the receipts of very many


@dataclass(frozen=True, slots=True)
class Receipt:
    """One finished call.

    Attributes:
        folder: its folder below `out`.
        cells: the identities of its cells, and where their rows are.
        files: table -> its path below `out`, size in bytes and sha256.
        facts: numbers that the manifest of a run adds up: images, seconds, passes, bytes.
    """

    task: str
    folder: str
    cells: dict[str, RowGroups]
    files: dict[str, dict]
    facts: dict

    def to_json(self) -> str:
        """The receipt with a checksum of itself at its end."""
        cells = {cell: {name: getattr(groups, name) for name in RowGroups.__slots__} for cell, groups in self.cells.items()}
        fields = {"task": self.task, "folder": self.folder, "cells": cells, "files": self.files, "facts": self.facts}
        text = json.dumps({"format": FORMAT, **fields}, sort_keys=True)
        return f'{text[:-1]}, "check": "{_checksum(text[:-1])}"}}'

    @staticmethod
    def from_json(text: str | bytes) -> "Receipt":
        """Read a receipt.

        Raises:
            Damaged: where the text is not, to the last byte, the one that was written.
        """
        try:
            text = text if isinstance(text, str) else text.decode()
            body, _, check = text.rpartition(', "check": ')
            if check != f'"{_checksum(body)}"}}':
                raise ValueError("its checksum is another")
            fields = json.loads(text, object_pairs_hook=_intern)
            if fields.pop("format") != FORMAT:
                raise ValueError("it is of another format")
        except ValueError as error:
            raise Damaged(f"a receipt is damaged: {error}") from error
        fields.pop("check")
        facts = fields["facts"]
        if "passes" in facts:
            facts["passes"] = _shared_value(json.dumps(facts["passes"]))
        cells = {cell: _shared_row_groups(**groups) for cell, groups in fields["cells"].items()}
        return Receipt(**{**fields, "cells": cells, "facts": facts})


def _intern(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object that shares its keys with all others, but for the identities of cells: each of those occurs once."""
    return {intern(key) if len(key) < IDENTITY else key: value for key, value in pairs}


@lru_cache(PACKED_AT_ONCE)
def _shared_value(text: str) -> dict:
    """A value that is the same in very many receipts, in memory once for all of them."""
    return json.loads(text)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Damaged(Exception):
    """A file of a task is missing or differs from what was written."""


def parquet_bytes(tables: Sequence[pa.Table]) -> bytes:
    """One Parquet file with one row group per table."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, tables[0].schema, **schema.writing_options(tables[0].schema)) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return sink.getvalue()


def land(out: str, task: str, outputs: Sequence[tuple[str, str, pa.Table, pa.Table]], facts: dict) -> Receipt:
    """Write the outputs of one call, (cell, table, rows, errors) each, then the receipt. The same call writes the same names."""
    folder = f"tasks/{task[:2]}/{task}/{digest(sorted(cell for cell, *_ in outputs))}"
    groups: dict[str, list[pa.Table]] = {}
    cells = {}
    for cell, table, rows, errors in outputs:
        cells[cell] = RowGroups(table, _append(groups, table, rows), rows.num_rows, _append(groups, "errors", errors), errors.num_rows)
    entries = {}
    for table, tables in groups.items():
        content = parquet_bytes(tables)
        path = f"{folder}/{table}.parquet"
        files.write_bytes(storage.join(out, path), content)
        entries[table] = {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    receipt = Receipt(task, folder, cells, entries, facts)
    files.write_bytes(storage.join(out, folder, "receipt.json"), receipt.to_json().encode())
    return receipt


def _append(groups: dict[str, list[pa.Table]], table: str, rows: pa.Table) -> int:
    """Add a row group to a table's file; returns its number, -1 where there are no rows."""
    if not rows.num_rows:
        return -1
    groups.setdefault(table, []).append(rows)
    return len(groups[table]) - 1


def load(out: str, cached: Iterable[Receipt] = ()) -> list[Receipt]:
    """The receipts below `out` whose files are there in full. Only those that are not `cached` are read from storage."""
    by_folder = {receipt.folder: receipt for receipt in cached}
    fs, path = storage.filesystem(storage.join(out, "tasks"))
    try:
        paths = storage.retrying(lambda: fs.ls(path, detail=False))
    except FileNotFoundError:
        return []
    prefixes = sorted({name.rstrip("/").rpartition("/")[2] for name in paths})
    with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
        loaded = list(pool.map(partial(_load, out, by_folder), prefixes))
    damaged = [folder for _, folders in loaded for folder in folders]
    if damaged:
        log.warning("%s or their files are damaged, and do not count: %s", counted(len(damaged), "receipts"), " ".join(damaged[:3]))
    return [receipt for receipts, _ in loaded for receipt in receipts]


def _load(out: str, cached: Mapping[str, Receipt], prefix: str) -> tuple[list[Receipt], list[str]]:
    """The receipts of tasks that begin with `prefix`, and the folders of those that do not count."""
    sizes = {f"tasks/{prefix}/{path}": record["size"] for path, record in files.below(storage.join(out, "tasks", prefix)).items()}
    folders = sorted(path.removesuffix("/receipt.json") for path in sizes if path.endswith("/receipt.json"))
    uncached = [folder for folder in folders if folder not in cached]
    urls = [storage.join(out, folder, "receipt.json") for folder in uncached]
    contents = dict(zip(uncached, storage.read_many(urls) if urls else [], strict=True))
    receipts, damaged = [], []
    for folder in folders:
        try:
            receipt = cached.get(folder) or _read(contents[folder])
            if any(sizes.get(entry["path"]) != entry["bytes"] for entry in receipt.files.values()):
                raise Damaged(f"a file of {folder} is missing or cut off")
            receipts.append(receipt)
        except Damaged:
            damaged.append(folder)
    return receipts, damaged


def _read(content: bytes | Exception) -> Receipt:
    if isinstance(content, FileNotFoundError):
        raise Damaged("a receipt went while it was being listed") from content
    if isinstance(content, Exception):
        raise content
    return Receipt.from_json(content)


def discard(out: str, folders: Iterable[str]) -> None:
    """Remove receipts, so that neither this job nor a later one counts them."""
    storage.remove([storage.join(out, folder, "receipt.json") for folder in folders])


def fetch(out: str, receipt: Receipt, table: str) -> pq.ParquetFile:
    """A receipt's file, read whole and checked.

    Raises:
        Damaged: naming the file.
    """
    return _whole(out, receipt.files[table])


def row_groups(out: str, groups: Iterable[tuple[dict, int]]) -> pa.Table:
    """Read row groups of receipts' files, (entry of the file, number of the group) each, one after the other.

    Raises:
        Damaged: naming the file.
    """
    opened: dict[str, pq.ParquetFile] = {}
    rows = []
    for entry, group in groups:
        if entry["path"] not in opened:
            opened[entry["path"]] = _whole(out, entry)
        rows.append(opened[entry["path"]].read_row_group(group))
    return pa.concat_tables(rows)


def _whole(out: str, entry: dict) -> pq.ParquetFile:
    try:
        content = storage.read_bytes(storage.join(out, entry["path"]))
    except FileNotFoundError as error:
        raise Damaged(f"{entry['path']} is missing") from error
    if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise Damaged(f"{entry['path']} is damaged: {len(content)} bytes for {entry['bytes']}")
    return pq.ParquetFile(pa.BufferReader(content))


def pack(receipts: Iterable[Receipt]) -> bytes:
    """Receipts as one Parquet file, so that resuming reads one file. A batch at a time, because there may be very many."""
    columns, receipts = pa.schema([("folder", pa.string()), ("receipt", pa.string())]), iter(receipts)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, columns, compression="zstd") as writer:
        while batch := list(islice(receipts, PACKED_AT_ONCE)):
            writer.write_table(pa.table([[r.folder for r in batch], [r.to_json() for r in batch]], schema=columns))
    return sink.getvalue()


def unpack(content: bytes) -> list[Receipt]:
    """Read the receipts of a file that `pack` made."""
    batches = pq.ParquetFile(pa.BufferReader(content)).iter_batches(PACKED_AT_ONCE, columns=["receipt"])
    return [Receipt.from_json(text.as_py()) for batch in batches for text in batch["receipt"]]


def failure(text: str) -> dict | None:
    """The failure that a task came back with in place of a receipt; None where it came back with one."""
    return json.loads(text).get("failure")


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """One finished cell of a task.

    Attributes:
        cell: its identity.
        position: its position among the job's cells.
        partition: the method whose folder its rows go to, if any.
    """

    cell: str
    position: int
    partition: str | None
    receipt: Receipt

    @property
    def row_groups(self) -> RowGroups:
        """The row groups of its rows and errors."""
        return self.receipt.cells[self.cell]
