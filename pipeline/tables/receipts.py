"""Receipts: which cells of which task are answered, and in which files. A file counts only through a receipt that names it.

<out>/tasks/<2 hex>/<task>/<hash of its cells>/<table>.parquet + receipt.json     (immutable; the receipt is written last)
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.tables import files, schema
from pipeline.tables.identity import digest

FORMAT = 1


@dataclass(frozen=True)
class Part:
    """Where one cell's rows and errors lie: row groups of the receipt's files, and how many rows they hold (-1: no such group)."""

    table: str
    group: int
    rows: int
    error_group: int
    error_rows: int


@dataclass(frozen=True)
class Receipt:
    """One finished call. `files` maps a table to its path below `out`, size in bytes and sha256; `facts` is what run.json adds up."""

    task: str
    folder: str
    cells: dict[str, Part]
    files: dict[str, dict]
    facts: dict

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @staticmethod
    def from_json(text: str | bytes) -> "Receipt":
        fields = json.loads(text)
        fields.pop("format")
        return Receipt(**{**fields, "cells": {cell: Part(**part) for cell, part in fields["cells"].items()}})


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
        cells[cell] = Part(table, _append(groups, table, rows), rows.num_rows, _append(groups, "errors", errors), errors.num_rows)
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
    """All receipts below `out`: those already `known` as they are, and whatever is newer from storage."""
    receipts = {receipt.folder: receipt for receipt in known}
    for folder in files.find(storage.join(out, "tasks"), "receipt.json"):
        if folder not in receipts:
            receipts[folder] = Receipt.from_json(storage.read_bytes(storage.join(out, folder, "receipt.json")))
    return [receipts[folder] for folder in sorted(receipts)]


class Damaged(Exception):
    """A file a receipt names is missing or not what was written."""


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
    return pq.ParquetFile(io.BytesIO(content))


def pack(receipts: Iterable[Receipt]) -> pa.Table:
    """Receipts as one table, so that resuming reads one file."""
    receipts = list(receipts)
    return pa.table({"folder": [r.folder for r in receipts], "receipt": [r.to_json() for r in receipts]})


def unpack(table: pa.Table) -> list[Receipt]:
    return [Receipt.from_json(text) for text in table["receipt"].to_pylist()]


def failure(text: str) -> dict | None:
    """What went wrong, where a task came back with a failure in place of a receipt."""
    return json.loads(text).get("failure")
