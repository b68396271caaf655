"""The units of an analysis: each is one file of its table, named by the rows that it is computed from, and copied where these are the same."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.monitor.monitor import Monitor
from pipeline.reduce import compact
from pipeline.reduce.analyses import ANALYSES
from pipeline.reduce.analyses.images import Group, fingerprints, read_images
from pipeline.reduce.analyses.registry import identity_of, reads_analyses
from pipeline.reduce.analyses.rows import Rows
from pipeline.spec.grammar import Choice
from pipeline.tables import schema
from pipeline.tables.identity import digest
from pipeline.tables.lake.location import Location

Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # applies a function to items, in any order, on any machine
ROWS_AT_ONCE = 4096  # of an analysis, as dictionaries
Entries = Sequence[dict]  # of files, as run.json has them


@dataclass(frozen=True)
class RunFiles:
    """The published files of a run: those of each group of tasks, and those that belong to all.

    Attributes:
        location: where they lie.
        size: (H, W), pixels of the network's input.
    """

    context: compact.CompactionContext
    location: Location
    size: tuple[int, int]
    groups: Sequence[Entries]
    others: Entries = ()

    def of_group(self, entries: Entries) -> Group:
        """The files of one group, by table."""
        return {table: self._rows(table, entries) for table in {entry["table"] for entry in entries}}

    def of_table(self, table: str, method: str | None = None) -> Rows:
        """The rows of a table, those of one method where it is named and the table has methods."""
        entries = [entry for group in (*self.groups, self.others) for entry in group]
        if method is not None and table in schema.PARTITIONED:
            folder = f"{table}/{schema.PARTITIONED[table]}={method}/"
            entries = [entry for entry in entries if entry["path"].startswith(folder)]
        return replace(self._rows(table, entries), method=method)

    def _rows(self, table: str, entries: Entries) -> Rows:
        own = sorted((entry for entry in entries if entry["table"] == table), key=itemgetter("path"))
        return Rows(table, [(entry, self.location.url(entry["path"])) for entry in own])

    @property
    def methods(self) -> list[str]:
        """The methods that have maps or metrics."""
        paths = (entry["path"].split("/") for group in self.groups for entry in group if entry["table"] in ("maps", "metrics"))
        return sorted({path[1].partition("=")[2] for path in paths})


@dataclass(frozen=True)
class UnitOfWork:
    """One file to be: the analysis, the classes or the method it is about, and its name.

    Attributes:
        part: a bucket of classes, a method, or nothing where it is the whole run.
        groups: the groups of tasks, by number, that images of the bucket are in.
    """

    choice: Choice
    part: str | None
    digest: str
    groups: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """The file's path within its run."""
        return f"{self.choice.name}/part-{self.digest}.parquet"


class Bucket(NamedTuple):
    """Some classes: the groups of tasks, by number, that their images are in, and the fingerprint of their rows in each table."""

    groups: tuple[int, ...]
    sums: Mapping[str, int]


def compute_analyses(files: RunFiles, choices: Sequence[Choice], parallel_map: Map, monitor: Monitor) -> list[dict]:
    """Write the tables of analyses, those first that others read; returns the entries of their files.

    A unit whose rows are those of the previous run, under the same analysis, is copied from it.
    """
    entries: list[dict] = []
    tables = sorted({table for choice in choices if ANALYSES[choice.name].unit == "class" for table in ANALYSES[choice.name].reads})
    buckets = _buckets(parallel_map(partial(_fingerprints, files, tables), range(len(files.groups)))) if tables and files.groups else {}
    for second in (False, True):
        stage = [choice for choice in choices if reads_analyses(choice) is second]
        present = replace(files, others=[*files.others, *entries])
        units = [unit for choice in stage for unit in _units(present, choice, buckets)]
        if units:
            with monitor.stage("publish", len(units), "parts"):
                for entry in parallel_map(partial(compute_unit, present), units):
                    entries.append(entry)
                    monitor.add()
    return sorted(entries, key=itemgetter("path")) + [*_empty_tables(files, choices, entries)]


def _fingerprints(files: RunFiles, tables: Sequence[str], number: int) -> tuple[int, dict[str, dict[str, int]]]:
    """The fingerprints of the buckets in one group of tasks, with the group's number."""
    return number, fingerprints(tables, files.of_group(files.groups[number]))


def _buckets(of_groups: Iterable[tuple[int, Mapping[str, Mapping[str, int]]]]) -> dict[str, Bucket]:
    """The buckets of all groups, by name."""
    buckets: dict[str, Bucket] = {}
    for number, of_group in sorted(of_groups, key=itemgetter(0)):
        for name, of_tables in of_group.items():
            groups, sums = buckets.get(name, Bucket((), {}))
            added = {table: (sums.get(table, 0) + of_tables.get(table, 0)) % 2**128 for table in {*sums, *of_tables}}
            buckets[name] = Bucket((*groups, number), added)
    return buckets


def _units(files: RunFiles, choice: Choice, buckets: Mapping[str, Bucket]) -> Iterator[UnitOfWork]:
    """The units of one analysis."""
    entry, identity = ANALYSES[choice.name], [identity_of(choice), schema.VERSIONS.get(choice.name, 1)]
    if entry.unit == "class":
        for name, bucket in sorted(buckets.items()):
            content = [str(bucket.sums.get(table)) for table in entry.reads]
            yield UnitOfWork(choice, name, digest([identity, files.size, name, content]), bucket.groups)
        return
    for method in files.methods if entry.unit == "method" else (None,):
        paths = [file["path"] for table in entry.reads for file, _ in files.of_table(table, method).files]
        yield UnitOfWork(choice, method, digest([identity, method, paths]))


def compute_unit(files: RunFiles, unit: UnitOfWork) -> dict:
    """Write the file of one unit, or copy it from the previous run; returns its entry for run.json."""
    entry = compact.copy_previous(files.context, files.location, unit.path)
    if entry:
        return entry
    name = unit.choice.name
    rows = as_table(_rows_of(files, unit), schema.ANALYSES[name])
    return compact.write_table(files.location.url(unit.path), unit.path, name, rows)


def as_table(rows: Iterable[dict], columns: pa.Schema) -> pa.Table:
    """Rows as a table, of which few are in memory as dictionaries, which take twenty times the room."""
    parts, rest = [columns.empty_table()], iter(rows)
    while chunk := [*islice(rest, ROWS_AT_ONCE)]:
        parts.append(pa.Table.from_pylist(chunk, columns))
    return pa.concat_tables(parts)


def _rows_of(files: RunFiles, unit: UnitOfWork) -> Iterable[dict]:
    entry, settings = ANALYSES[unit.choice.name], unit.choice.args
    if entry.unit == "class":
        images = read_images([files.of_group(files.groups[number]) for number in unit.groups], unit.part or "", files.size)
        return entry.function(images, **settings)
    return entry.function(**{table: files.of_table(table, unit.part) for table in entry.reads}, **settings)


def _empty_tables(files: RunFiles, choices: Sequence[Choice], entries: Sequence[dict]) -> Iterator[dict]:
    """An empty file for every table without one, so that queries over it find no rows."""
    for choice in choices:
        if choice.name not in {entry["table"] for entry in entries}:
            path = f"{choice.name}/part-{digest([identity_of(choice)])}.parquet"
            yield compact.write_table(files.location.url(path), path, choice.name, schema.ANALYSES[choice.name].empty_table())
