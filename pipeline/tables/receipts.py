"""Receipts: which cells of which task are answered, and in which files. A file counts only through a receipt that names it.

<out>/tasks/<2 hex>/<task>/<hash of its cells>/<table>.parquet + receipt.json     (immutable; the receipt is written last)

A receipt counts only while its files are there in full; what does not count is computed again, under the same name.
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
from pipeline.tables import files, schema
from pipeline.tables.identity import digest

log = logging.getLogger(__name__)
FORMAT = 2
LISTED_AT_ONCE = 16
PACKED_AT_ONCE = 4096
IDENTITY = 32  # characters of an identity


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Where one cell's rows and errors lie: row groups of the receipt's files, and how many rows they hold (-1: no such group)."""

    table: str
    group: int
    rows: int
    error_group: int
    error_rows: int


_part = lru_cache(PACKED_AT_ONCE)(RowGroups)  # tasks are alike, and a driver may hold the receipts of very many


@dataclass(frozen=True, slots=True)
class Receipt:
    """One finished call. `files` maps a table to its path below `out`, size in bytes and sha256; `facts` is what run.json adds up."""

    task: str
    folder: str
    cells: dict[str, RowGroups]
    files: dict[str, dict]
    facts: dict

    def to_json(self) -> str:
        """The receipt with a checksum of itself at its end."""
        cells = {cell: {name: getattr(part, name) for name in RowGroups.__slots__} for cell, part in self.cells.items()}
        told = {"task": self.task, "folder": self.folder, "cells": cells, "files": self.files, "facts": self.facts}
        text = json.dumps({"format": FORMAT, **told}, sort_keys=True)
        return f'{text[:-1]}, "check": "{_check(text[:-1])}"}}'

    @staticmethod
    def from_json(text: str | bytes) -> "Receipt":
        """
        Raises:
            Damaged: where this is not, to the last byte, what was written.
        """
        try:
            text = text if isinstance(text, str) else text.decode()
            body, _, check = text.rpartition(', "check": ')
            if check != f'"{_check(body)}"}}':
                raise ValueError("its checksum is another")
            fields = json.loads(text, object_pairs_hook=_lean)
            if fields.pop("format") != FORMAT:
                raise ValueError("it is of another format")
        except ValueError as error:
            raise Damaged(f"a receipt is damaged: {error}") from error
        fields.pop("check")
        facts = fields["facts"]
        if "passes" in facts:
            facts["passes"] = _alike(json.dumps(facts["passes"]))
        return Receipt(**{**fields, "cells": {cell: _part(**part) for cell, part in fields["cells"].items()}, "facts": facts})


def _lean(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object that shares its names with all others; the identities of cells are no names, and each is there once."""
    return {intern(key) if len(key) < IDENTITY else key: value for key, value in pairs}


@lru_cache(PACKED_AT_ONCE)
def _alike(text: str) -> dict:
    """A value that is the same in very many receipts, once for all of them."""
    return json.loads(text)


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Damaged(Exception):
    """A file of a task is missing or not what was written."""


def parquet_bytes(tables: Sequence[pa.Table]) -> bytes:
    """One Parquet file with one row group per table."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, tables[0].schema, **schema.writing_options(tables[0].schema)) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return sink.getvalue()


def land(out: str, task: str, answers: Sequence[tuple[str, str, pa.Table, pa.Table]], facts: dict) -> Receipt:
    """Write the answers of one call, (cell, table, rows, errors) each, then the receipt. The same call writes the same names."""
    folder = f"tasks/{task[:2]}/{task}/{digest(sorted(cell for cell, *_ in answers))}"
    groups: dict[str, list[pa.Table]] = {}
    cells = {}
    for cell, table, rows, errors in answers:
        cells[cell] = RowGroups(table, _append(groups, table, rows), rows.num_rows, _append(groups, "errors", errors), errors.num_rows)
    written = {}
    for table, parts in groups.items():
        content = parquet_bytes(parts)
        path = f"{folder}/{table}.parquet"
        files.write_bytes(storage.join(out, path), content)
        written[table] = {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    receipt = Receipt(task, folder, cells, written, facts)
    files.write_bytes(storage.join(out, folder, "receipt.json"), receipt.to_json().encode())
    return receipt


def _append(groups: dict[str, list[pa.Table]], table: str, rows: pa.Table) -> int:
    if not rows.num_rows:
        return -1
    groups.setdefault(table, []).append(rows)
    return len(groups[table]) - 1


def load(out: str, known: Iterable[Receipt] = ()) -> list[Receipt]:
    """The receipts below `out` whose files are there in full: those already `known` as they are, and whatever is newer from storage."""
    kept = {receipt.folder: receipt for receipt in known}
    fs, path = storage.filesystem(storage.join(out, "tasks"))
    try:
        listed = storage.retrying(lambda: fs.ls(path, detail=False))
    except FileNotFoundError:
        return []
    starts = sorted({name.rstrip("/").rpartition("/")[2] for name in listed})
    with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
        found = list(pool.map(partial(_load, out, kept), starts))
    damaged = [folder for _, folders in found for folder in folders]
    if damaged:
        log.warning("%d receipts or their files are damaged, and do not count: %s", len(damaged), " ".join(damaged[:3]))
    return [receipt for receipts, _ in found for receipt in receipts]


def _load(out: str, known: Mapping[str, Receipt], start: str) -> tuple[list[Receipt], list[str]]:
    """The receipts of tasks that begin with `start`, and the folders of those that do not count."""
    sizes = {f"tasks/{start}/{path}": info["size"] for path, info in files.below(storage.join(out, "tasks", start)).items()}
    folders = sorted(path.removesuffix("/receipt.json") for path in sizes if path.endswith("/receipt.json"))
    fresh = [folder for folder in folders if folder not in known]
    urls = [storage.join(out, folder, "receipt.json") for folder in fresh]
    contents = dict(zip(fresh, storage.read_many(urls) if urls else [], strict=True))
    receipts, damaged = [], []
    for folder in folders:
        try:
            receipt = known.get(folder) or _read(contents[folder])
        except Damaged:
            receipt = None
        whole = receipt and all(sizes.get(entry["path"]) == entry["bytes"] for entry in receipt.files.values())
        receipts.append(receipt) if whole else damaged.append(folder)
    return receipts, damaged


def _read(content: bytes | Exception) -> Receipt:
    if isinstance(content, FileNotFoundError):
        raise Damaged("a receipt went while it was being listed") from content
    if isinstance(content, Exception):
        raise content
    return Receipt.from_json(content)


def discard(out: str, folders: Iterable[str]) -> None:
    """Make receipts count no longer: for this job and for any later one."""
    storage.remove([storage.join(out, folder, "receipt.json") for folder in folders])


def fetch(out: str, receipt: Receipt, table: str) -> pq.ParquetFile:
    """A receipt's file, read whole and checked.

    Raises:
        Damaged: naming the file.
    """
    return _whole(out, receipt.files[table])


def row_groups(out: str, places: Iterable[tuple[dict, int]]) -> pa.Table:
    """Row groups of receipts' files, each given as its file and its number, one after the other.

    Raises:
        Damaged: naming the file.
    """
    opened: dict[str, pq.ParquetFile] = {}
    rows = []
    for entry, group in places:
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
    form, receipts = pa.schema([("folder", pa.string()), ("receipt", pa.string())]), iter(receipts)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, form, compression="zstd") as writer:
        while batch := list(islice(receipts, PACKED_AT_ONCE)):
            writer.write_table(pa.table([[r.folder for r in batch], [r.to_json() for r in batch]], schema=form))
    return sink.getvalue()


def unpack(content: bytes) -> list[Receipt]:
    batches = pq.ParquetFile(pa.BufferReader(content)).iter_batches(PACKED_AT_ONCE, columns=["receipt"])
    return [Receipt.from_json(text.as_py()) for batch in batches for text in batch["receipt"]]


def failure(text: str) -> dict | None:
    """What went wrong, where a task came back with a failure in place of a receipt."""
    return json.loads(text).get("failure")


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """One cell of one task in a group: its identity, its position in the plan, its partition (a method, or none), and its receipt."""

    cell: str
    position: int
    partition: str | None
    receipt: Receipt

    @property
    def part(self) -> RowGroups:
        return self.receipt.cells[self.cell]
