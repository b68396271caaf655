"""A run committed as Delta tables: its files are brought below their addresses, where they do not lie there, and every table moves on to them.

The tables follow current.json: a run is committed while it is the one published under the name. A table is read first, then current.json, and
the commit succeeds only where nobody has committed to the table since; so no late publisher puts an older run over a newer one.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from pipeline import storage
from pipeline.refusal import Refusal, counted
from pipeline.tables import files, publish, schema
from pipeline.tables.lake import delta
from pipeline.tables.lake.location import Location, table_url
from pipeline.tables.read import Run

COPIES_AT_ONCE = 16
TRIES = 5


@dataclass(frozen=True)
class Commit:
    """A table and its version that has a run's rows; whether this job has committed it."""

    table: str
    version: int
    new: bool


def place(run: Run, name: str, show: Callable[[str], None] = print) -> Run:
    """A run with its files below the addresses of the tables of `name`, to which they are copied within the store unless they lie there.

    `show` is given a line about what is copied. Nothing of it is visible to a reader of these tables.

    Raises:
        Refusal: as `delta.check`, or where the run has types of an earlier version, or lacks files: a version has all of its files.
        OSError: where the store fails; the same call does the rest.
    """
    delta.check(run.out, name)
    location, entries = Location(run.out, run.run_id, name), run.manifest["files"]
    lost = _lacking(run.location, entries)
    if lost:
        raise Refusal(
            f"run {run.run_id} lacks {counted(len(lost), 'files')}, among them {run.location.url(lost[0]['path'])}, so it is not committed; "
            "publish another run with --run, or a new one by its job"
        )
    for table in run.tables:
        delta.columns(run, table)
    lacking = _lacking(location, entries) if location != run.location else []
    if lacking:
        size = sum(entry["bytes"] for entry in lacking)
        show(
            f"the files of run {run.run_id} lie elsewhere: {counted(len(lacking), 'files')}, {size:,} bytes, are copied within the store "
            "to where its tables are"
        )
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
            list(pool.map(partial(_copy, run.location, location), lacking))
    return replace(run, manifest={**run.manifest, "lake": name})


def commit_run(run: Run, name: str, show: Callable[[str], None] = print) -> list[Commit]:
    """Commit a run, placed and published under `name`, as Delta tables; a table that has its rows already stays as it is.

    A table of earlier runs that this one lacks gets a version without rows. `show` is given a line about what is done.

    Raises:
        Overtaken: where another run is published under the name by now; its publisher commits it.
        OSError: where the store fails; the same call does the rest.
    """
    commits = [_commit(run, name, table) for table in dict.fromkeys([*run.tables, *schema.TABLES])]
    present = [commit for commit in commits if commit]
    new = [commit for commit in present if commit.new]
    show(
        f"run {run.run_id} is in {counted(len(present), 'Delta tables')} below {storage.join(run.out, 'lake', name)}, "
        + (f"{len(new)} of them committed now" if new else "nothing new")
    )
    return present


def _copy(source: Location, target: Location, entry: Mapping) -> None:
    files.copy(source.url(entry["path"]), target.url(entry["path"]))


def _lacking(location: Location, entries: Sequence[Mapping]) -> list[Mapping]:
    """The files that do not lie there, or not in full."""
    fs, _ = storage.filesystem(location.out)
    infos = storage.infos(fs, [fs._strip_protocol(location.url(entry["path"])) for entry in entries])
    return [entry for entry, info in zip(entries, infos, strict=True) if info["size"] != entry["bytes"]]


def _commit(run: Run, name: str, table: str) -> Commit | None:
    """Commit one table; None where neither the run nor an earlier one has it."""
    for _ in range(TRIES):
        try:
            return storage.retrying(partial(_attempt, run, name, table))
        except delta.Moved:
            continue
    url = table_url(run.out, name, table)
    raise publish.Overtaken(f"other jobs committed to {url} {TRIES} times while run {run.run_id} was to be; run this again")


def _attempt(run: Run, name: str, table: str) -> Commit | None:
    """Commit one table as it is now, unless it has the run's rows, also from an attempt whose answer was lost."""
    url = table_url(run.out, name, table)
    before = delta.load(url)
    if before is None and table not in run.tables:
        return None
    if before is not None and delta.holds(before, run.run_id):
        return Commit(table, before.version(), new=False)
    published = publish.current(run.out).get(name)
    if published != run.run_id:
        raise publish.Overtaken(
            f"run {run.run_id} is not committed to {url}: {published} was published as {name!r} meanwhile, and its publisher commits it"
        )
    version = before.version() + 1 if before else 0
    delta.commit(url, before, run, table)
    return Commit(table, version, new=True)
