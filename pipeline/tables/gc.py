"""Garbage collection: removes folders of tasks and runs that no kept run refers to, and runs that were begun and never finished.

A run is kept as well while a kept version of a Delta table refers to its files. Other versions are dropped from their tables' logs first.

A job may be running meanwhile. Files that it writes are younger than the age guard; older files that it finds gone it computes again, as
it does with damaged ones.
"""

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import takewhile

from pipeline import storage
from pipeline.refusal import Refusal, one_line
from pipeline.tables import files, publish, receipts
from pipeline.tables.lake import delta

log = logging.getLogger(__name__)
FOLDERS_AT_ONCE = 16
TIME_KEYS = ("LastModified", "mtime", "created", "updated")  # names that stores have for the time a file was written


@dataclass(frozen=True)
class Folder:
    """A task's or a run's folder: when each of its files was written (epoch seconds), by path below `out`, and their bytes."""

    path: str
    files: Mapping[str, float]
    size: int

    @property
    def written(self) -> float:
        """When the last of its files was written (epoch seconds)."""
        return max(self.files.values())


@dataclass(frozen=True)
class Log:
    """The versions of a Delta table, by its path below `out`: those that are dropped and those that stay."""

    table: str
    dropped: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class GcResult:
    """The folders that are removed, or would be, those of a run's tables below `lake` too; the runs that stay, and how many tasks.

    `logs` has the Delta tables.
    """

    runs: tuple[Folder, ...]
    tasks: tuple[Folder, ...]
    tables: tuple[Folder, ...]
    logs: tuple[Log, ...]
    kept_runs: tuple[str, ...]
    kept_tasks: int

    @property
    def size(self) -> int:
        """Bytes of the removed folders."""
        return sum(folder.size for folder in (*self.runs, *self.tasks, *self.tables))

    @property
    def versions(self) -> int:
        """The number of versions that are dropped."""
        return sum(len(log.dropped) for log in self.logs)


def collect_garbage(out: str, keep: int, run_ids: Iterable[str] = (), min_age: float = 86400.0, delete: bool = False) -> GcResult:
    """Find the folders that no kept run needs; remove them if `delete` is true.

    Kept are the last `keep` versions of each Delta table and younger ones; the last `keep` runs of each name, the runs current.json
    points at, those that these versions refer to, and the runs `run_ids`; the tasks that the receipts of these runs name; and every folder
    younger than `min_age` seconds.

    Raises:
        Refusal: where `out` holds nothing, a run of `run_ids` does not exist, or the receipts of a kept run cannot be read.
    """
    oldest = time.time() - min_age
    runs = _folders(out, "runs", 1)
    tasks = _folders(out, "tasks", 3)
    if not runs and not tasks:
        raise Refusal(f"there is neither a run nor a task below {out}; check --out")
    lake = _folders(out, "lake", 3)
    logs = [_log(folder, keep, oldest) for path, folder in lake.items() if path.endswith("/_delta_log")]
    referred = _referred(out, logs)
    kept_runs = _kept_runs(out, runs, keep, run_ids) | (referred & runs.keys())
    published = publish.current(out)
    needed = {receipt.folder for run in kept_runs for receipt in _receipts(out, run)}
    old_runs = [folder for name, folder in runs.items() if name not in kept_runs and folder.written < oldest]
    old_tasks = [folder for path, folder in tasks.items() if f"tasks/{path}" not in needed and folder.written < oldest]
    needless = [folder for path, folder in lake.items() if path.split("/")[2] not in {*kept_runs, *referred, "_delta_log"}]
    old_tables = [folder for folder in needless if folder.written < oldest]
    garbage = GcResult(
        tuple(old_runs), tuple(old_tasks), tuple(old_tables), tuple(logs), tuple(sorted(kept_runs)), len(tasks) - len(old_tasks)
    )
    if delete:
        if publish.current(out) != published:
            raise Refusal("a job has published meanwhile, so nothing is removed; run this again")
        for log in logs:
            if log.dropped:
                delta.drop_versions(storage.join(out, log.table), log.kept[0])
        with ThreadPoolExecutor(FOLDERS_AT_ONCE) as pool:
            list(pool.map(partial(_remove, out), old_runs))  # before their tables: who opens a run finds it whole or not at all
            list(pool.map(partial(_remove, out), (*old_tables, *old_tasks)))
    return garbage


def _folders(out: str, kind: str, depth: int) -> dict[str, Folder]:
    """The folders `depth` levels below <out>/<kind>, by their path there."""
    records: dict[str, dict[str, dict]] = {}  # folder -> file -> the store's record of it
    for path, record in files.below(storage.join(out, kind)).items():
        parts = path.split("/")
        if len(parts) > depth:
            records.setdefault("/".join(parts[:depth]), {})[f"{kind}/{path}"] = record
    folders = {}
    for name, of_file in sorted(records.items()):
        size, times = sum(record["size"] or 0 for record in of_file.values()), {p: _time_written(record) for p, record in of_file.items()}
        folders[name] = Folder(f"{kind}/{name}", times, size)
    return folders


def _log(folder: Folder, keep: int, oldest: float) -> Log:
    """The versions of a table by the folder of its log; of those before the last `keep` the ones written before `oldest` are dropped."""
    versions = {int(match[1]): written for path, written in folder.files.items() if (match := re.search(r"/(\d{20})\.json$", path))}
    numbers = sorted(versions)
    dropped = tuple(takewhile(lambda number: versions[number] < oldest, numbers[:-keep]))
    return Log(folder.path.removesuffix("/_delta_log"), dropped, tuple(numbers[len(dropped) :]))


def _referred(out: str, logs: Iterable[Log]) -> set[str]:
    """The runs that the kept versions of Delta tables refer to."""
    if logs:
        delta.require()
    tables = (delta.load(storage.join(out, log.table), version) for log in logs for version in log.kept)
    return {run for table in tables if table is not None for run in delta.run_ids(table)}


def _time_written(record: Mapping) -> float:
    """When a file was written, in epoch seconds; now, where the store does not say."""
    moment = next((record[key] for key in TIME_KEYS if record.get(key) is not None), None)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return time.time() if moment is None else moment.timestamp() if isinstance(moment, datetime) else float(moment)


def _kept_runs(out: str, runs: Mapping[str, Folder], keep: int, run_ids: Iterable[str]) -> set[str]:
    """The runs that stay: of every name the last `keep`, the published ones and `run_ids`."""
    for run in run_ids:
        if run not in runs:
            raise Refusal(f"--runs {run}: there is no such run below {out}")
    finished: dict[str, list[str]] = {}
    for run, folder in runs.items():
        if f"runs/{run}/run.json" in folder.files:
            finished.setdefault(_name(out, run), []).append(run)
    last = {run for of_name in finished.values() for run in sorted(of_name)[-keep:]}
    return last | set(run_ids) | (set(publish.current(out).values()) & set(runs))


def _name(out: str, run: str) -> str:
    """The name a run was made under; its own id where its run.json cannot be read, so that it counts as the last of a name and stays."""
    try:
        return publish.read_manifest(out, run)["job"]["name"]
    except (json.JSONDecodeError, KeyError):
        log.warning("run.json of %s cannot be read; the run is kept", run)
        return run


def _receipts(out: str, run: str) -> list[receipts.Receipt]:
    try:
        return receipts.unpack(storage.read_bytes(storage.join(out, "runs", run, "receipts.parquet")))
    except Exception as error:
        raise Refusal(
            f"the receipts of run {run} cannot be read ({one_line(error)}), so it is not known what it needs and nothing is removed; "
            "run its job again, or remove the folder of that run"
        ) from error


def _remove(out: str, folder: Folder) -> None:
    """Remove a folder, its receipt or manifest first: a reader then sees the folder whole or not at all."""
    first = [path for path in folder.files if path.endswith(("/receipt.json", "/run.json"))]
    rest = [path for path in folder.files if path not in first]
    storage.remove([storage.join(out, path) for path in (*first, *rest)])
    storage.remove_empty(storage.join(out, folder.path))
