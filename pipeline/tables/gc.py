"""What no kept run refers to is removed: task folders, superseded runs, and runs that were begun and never finished.

A job may be running meanwhile. What it writes is younger than the age guard; what it only reads of older things and finds gone, it
computes again, as it does with anything that is damaged.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from pipeline import storage
from pipeline.refusal import Refusal, one_line
from pipeline.tables import files, publish, receipts

log = logging.getLogger(__name__)
REMOVED_AT_ONCE = 16
WRITTEN = ("LastModified", "mtime", "created", "updated")  # what stores call the time a file was written


@dataclass(frozen=True)
class Folder:
    """A task's or a run's folder: its files by path below `out`, their bytes, and when the last of them was written (epoch seconds)."""

    path: str
    files: tuple[str, ...]
    size: int
    written: float


@dataclass(frozen=True)
class GcResult:
    """What is removed, or would be, and how much stays."""

    runs: tuple[Folder, ...]
    tasks: tuple[Folder, ...]
    kept_runs: tuple[str, ...]
    kept_tasks: int

    @property
    def size(self) -> int:
        return sum(folder.size for folder in (*self.runs, *self.tasks))


def collect_garbage(out: str, keep: int, named: Iterable[str] = (), min_age: float = 86400.0, delete: bool = False) -> GcResult:
    """Find what no kept run needs, and remove it where `delete` says so.

    Kept are the last `keep` runs of each name, what current.json points at, the runs `named`, and whatever is younger than `min_age`
    seconds; of tasks, what the receipts of these runs name.

    Raises:
        Refusal: where nothing is there, a named run is not, or the receipts of a kept run cannot be read.
    """
    young = time.time() - min_age
    runs = _folders(out, "runs", 1)
    tasks = _folders(out, "tasks", 3)
    if not runs and not tasks:
        raise Refusal(f"there is neither a run nor a task below {out}; check --out")
    kept = _kept(out, runs, keep, named)
    published = publish.current(out)
    needed = {receipt.folder for run in kept for receipt in _receipts(out, run)}
    old_runs = [folder for name, folder in runs.items() if name not in kept and folder.written < young]
    old_tasks = [folder for path, folder in tasks.items() if f"tasks/{path}" not in needed and folder.written < young]
    swept = GcResult(tuple(old_runs), tuple(old_tasks), tuple(sorted(kept)), len(tasks) - len(old_tasks))
    if delete:
        if publish.current(out) != published:
            raise Refusal("a job has published meanwhile, so nothing is removed; run this again")
        with ThreadPoolExecutor(REMOVED_AT_ONCE) as pool:
            list(pool.map(partial(_remove, out), (*old_runs, *old_tasks)))
    return swept


def _folders(out: str, kind: str, depth: int) -> dict[str, Folder]:
    """The folders `depth` levels below <out>/<kind>, by their path there."""
    found: dict[str, list[tuple[str, dict]]] = {}
    for path, info in files.below(storage.join(out, kind)).items():
        parts = path.split("/")
        if len(parts) > depth:
            found.setdefault("/".join(parts[:depth]), []).append((f"{kind}/{path}", info))
    return {
        name: Folder(
            f"{kind}/{name}", tuple(p for p, _ in inside), sum(i["size"] or 0 for _, i in inside), max(_written(i) for _, i in inside)
        )
        for name, inside in sorted(found.items())
    }


def _written(info: Mapping) -> float:
    """When a file was written; now, where the store does not say."""
    moment = next((info[name] for name in WRITTEN if info.get(name) is not None), None)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return time.time() if moment is None else moment.timestamp() if isinstance(moment, datetime) else float(moment)


def _kept(out: str, runs: Mapping[str, Folder], keep: int, named: Iterable[str]) -> set[str]:
    """The runs that stay: of every name the last `keep`, the published ones and those named."""
    for run in named:
        if run not in runs:
            raise Refusal(f"--runs {run}: there is no such run below {out}")
    finished: dict[str, list[str]] = {}
    for run, folder in runs.items():
        if f"runs/{run}/run.json" in folder.files:
            finished.setdefault(_name(out, run), []).append(run)
    last = {run for of_name in finished.values() for run in sorted(of_name)[-keep:]}
    return last | set(named) | (set(publish.current(out).values()) & set(runs))


def _name(out: str, run: str) -> str:
    """The name a run was made under; its own id where its run.json cannot be read, so that it counts as the last of a name and stays."""
    try:
        return publish.run_json(out, run)["job"]["name"]
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
    """Remove a folder; first what makes it count, so that whoever looks meanwhile sees it whole or not at all."""
    first = [path for path in folder.files if path.endswith(("/receipt.json", "/run.json"))]
    storage.remove([storage.join(out, path) for path in (*first, *(path for path in folder.files if path not in first))])
    storage.remove_empty(storage.join(out, folder.path))
