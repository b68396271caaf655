"""The end of a job: what its cells came to is compacted, described in run.json and published."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from operator import itemgetter

import pyarrow as pa

from pipeline import passes, reduce, sources, storage
from pipeline.methods import METHODS
from pipeline.prepare import Prepared
from pipeline.progress import Progress
from pipeline.questions import Cell
from pipeline.refusal import Refusal
from pipeline.stages import Task
from pipeline.summary import curves_of, joined, of_partials
from pipeline.tables import files, publish, receipts, schema
from pipeline.tables.identity import digest
from pipeline.tables.metrics import added
from pipeline.tables.receipts import Receipt

_ASKED = ("method", "target", "metric")


class TooManyFailed(Exception):
    """More failed than the job allows, so its run is not published."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the run now published under its name, and the counts its last line tells."""

    run_id: str
    counts: dict
    new: bool

    @property
    def complete(self) -> bool:
        return not self.counts["shards_failed"]


@dataclass(frozen=True)
class Work:
    """What a job has come to: its tasks, every answered cell with its receipt, and the tasks whose shard could not be read."""

    ready: Prepared
    tasks: Sequence[Task]
    indexes: dict[sources.Shard, sources.Index]
    answered: dict[str, Receipt]
    failures: Sequence[dict]
    previous: str | None
    started: float
    spent: dict

    @property
    def done(self) -> list[Task]:
        """The tasks of which no cell is missing; where metrics are added to a run, no cell that the run holds."""
        needed = self.ready.held or self.ready.cells
        return [task for task in self.tasks if all(task.cell(cell.identity) in self.answered for cell in needed)]

    def holds(self, task: Task) -> bool:
        """Whether the run that metrics are added to, if there is one, has all of the task."""
        return all(task.cell(cell.identity) in self.answered for cell in self.ready.held)

    def answers(self, task: Task) -> dict[str, Cell]:
        """The cells of a task that have been answered, by their identities."""
        return {key: cell for cell in self.ready.cells if (key := task.cell(cell.identity)) in self.answered}

    @property
    def problems(self) -> list[dict]:
        """What is wrong with whole shards, as rows of the errors table."""
        told = [vars(problem) for index in self.indexes.values() for problem in index.problems]
        told += [
            {"image_id": None, "shard": f["shard"], "stage": f["stage"], "error": f["error"], "message": f["message"]}
            for f in self.failures
        ]
        return sorted(told, key=lambda problem: tuple(map(str, problem.values())))


def finish(work: Work, each: Callable) -> Outcome:
    """Publish the run, unless the one published before it is the same.

    Raises:
        Refusal: where nothing could be explained; what is published stays as it is.
        Overtaken: where another job has published under this name meanwhile.
        TooManyFailed: where more failed than the job allows; the run stays unpublished.
        Damaged: where a task's file is missing or not what was written; nothing is published yet.
    """
    began = time.monotonic()
    job, done, problems = work.ready.job, work.done, work.problems
    plan = digest([sorted(cell for task in done for cell in work.answers(task)), problems])
    before = publish.run_json(job.out, work.previous) if work.previous else None
    if before and before["plan"] == plan:
        return Outcome(work.previous, before["counts"], new=False)
    if not done:
        raise Refusal(f"no image could be read, so nothing is published; the first reason: {problems[0]['message']}")
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{plan[:8]}"
    groups = _groups(work, done)
    entries = _compacted(work, groups, each, run_id, before)
    entries += _summarised(work, groups, each, run_id, entries) if work.ready.questions.metrics else []
    entries += _filled(work, run_id, entries, problems)
    counts = _counted(work, entries, problems)
    used = {work.answered[cell].folder: work.answered[cell] for task in done for cell in work.answers(task)}
    files.write_bytes(storage.join(job.out, "runs", run_id, "receipts.parquet"), receipts.pack(used.values()))
    run = {
        "run_id": run_id,
        "plan": plan,
        "previous": work.previous,
        "counts": counts,
        "files": entries,
        **_described(work),
        **_timed(work, time.monotonic() - began),
        "passes": _passes(work),
    }
    files.write_json(storage.join(job.out, "runs", run_id, "run.json"), run)
    share = max(counts["failed"] / max(1, counts["images"]), counts["shards_failed"] / max(1, counts["shards"]))
    if share > job.max_failed:
        raise TooManyFailed(
            f"{share:.1%} of the images or shards failed, and --max-failed is {job.max_failed:.1%}: "
            f"the run is complete as {run_id} and not published; what is published stays as it is"
        )
    if not counts["explained"]:
        raise Refusal(
            f"not one of {counts['images']} images could be explained, so nothing is published; {run_id}/errors below runs/ says why"
        )
    publish.flip(job.out, job.name, run_id, work.previous, job.single_writer)
    return Outcome(run_id, counts, new=True)


def damaged(work: Work, each: Callable) -> set[str]:
    """Folders of all receipts that this job would publish from, and whose files are missing or not what was written."""
    before = publish.run_json(work.ready.job.out, work.previous) if work.previous else None
    earlier = {entry["path"]: entry for entry in before["files"]} if before else {}
    columns = sorted(work.ready.questions.columns)
    found = each(partial(reduce.damaged, work.ready.job.out, earlier, columns), _groups(work, work.done))
    return {folder for folders in found for folder in folders}


def _compacted(work: Work, groups: Sequence[list[reduce.Member]], each: Callable, run_id: str, before: dict | None) -> list[dict]:
    """Entries of the files that the groups of tasks are compacted to."""
    earlier = {entry["path"]: entry for entry in before["files"]} if before else {}
    compact = partial(reduce.compact, work.ready.job.out, run_id, earlier, work.previous, sorted(work.ready.questions.columns))
    progress, entries = Progress("publish", len(groups), "groups"), []
    for more in each(compact, groups):
        entries += more
        progress.add(1)
    return sorted(entries, key=lambda entry: entry["path"])


def _groups(work: Work, done: Sequence[Task]) -> list[list[reduce.Member]]:
    starts = reduce.boundaries({task.shard.name for task in done})
    groups, last = [], None
    for task in done:
        if not groups or (task.shard.name in starts and task.shard.name != last):
            groups.append([])
        last = task.shard.name
        answers = work.answers(task).items()
        groups[-1] += [reduce.Member(key, cell.method.alias if cell.method else None, work.answered[key]) for key, cell in answers]
    return groups


def _summarised(work: Work, groups: Sequence[list[reduce.Member]], each: Callable, run_id: str, entries: Sequence[dict]) -> list[dict]:
    """Entries of `partials`, `summary` and `curves`, made of what has just been published and of the tasks' partials."""
    out, asked = work.ready.job.out, work.ready.questions
    sums = sorted(each(partial(reduce.added_up, out), list(enumerate(groups))), key=itemgetter(0))
    partials = added(pa.concat_tables(rows for _, rows in sums))
    scored: dict[str, list[str]] = {}
    for entry in entries:
        if entry["table"] == "metrics":
            scored.setdefault(entry["path"].split("/")[1], []).append(entry["path"])
    floor = scored.get("method=random", [])
    parts = list(each(partial(reduce.summary_of, out, run_id, asked), [(paths, floor) for paths in scored.values()])) if scored else []
    written = []
    tables = {"partials": partials, "summary": joined([*parts, of_partials(partials, asked)]), "curves": curves_of(partials)}
    for table, rows in tables.items():
        path = f"{table}/part-{digest([member.cell for group in groups for member in group])}.parquet"
        written.append(reduce.write(storage.join(out, "runs", run_id, path), path, table, rows))
    return written


def _filled(work: Work, run_id: str, entries: Sequence[dict], problems: list[dict]) -> list[dict]:
    """The shards' own errors, and an empty file for every table without rows, so that queries over it answer with nothing."""
    backbone, questions = work.ready.backbone, work.ready.questions
    forms = {"errors": schema.ERRORS, "images": schema.IMAGES} | ({"maps": schema.MAPS} if questions.methods else {})
    forms["predictions"] = schema.predictions(backbone.num_classes, "logits" not in questions.no_store)
    if questions.metrics:
        forms |= {"metrics": schema.metrics(questions.columns)}
    if "features" not in questions.no_store:
        forms["features"] = schema.features(backbone.feature_width)
    present, added = {entry["table"] for entry in entries}, []
    for table, form in forms.items():
        rows = form.empty_table() if table != "errors" else schema.errors(problems)
        if table not in present or rows.num_rows:
            column = schema.PARTITIONED.get(table)
            folder = f"{table}/{column}={questions.methods[0].alias}" if column else table
            path = f"{folder}/part-{digest(rows.to_pylist())}.parquet"
            added.append(reduce.write(storage.join(work.ready.job.out, "runs", run_id, path), path, table, rows))
    return added


def _counted(work: Work, entries: Sequence[dict], problems: Sequence[dict]) -> dict:
    """Images seen, explained (a prediction and every map asked for) and failed; shards with problems; rows of errors."""
    seen = sum(task.stop - task.start for task in work.tasks)
    predicted = sum(entry["rows"] for entry in entries if entry["table"] == "predictions")
    explained = predicted - sum(entry.get("incomplete", 0) for entry in entries)
    return {
        "images": seen,
        "explained": explained,
        "failed": seen - explained,
        "shards": len(work.indexes),
        "shards_failed": len({problem["shard"] for problem in problems}),
        "errors": sum(entry["rows"] for entry in entries if entry["table"] == "errors"),
    }


def _described(work: Work) -> dict:
    ready, backbone = work.ready, work.ready.backbone
    sizes = ("name", "layer", "num_classes", "channels", "grid", "image_size", "identity")
    return {
        "job": {field: _public(value) for field, value in vars(ready.job).items()},
        "backbone": {key: getattr(backbone, key) for key in sizes} | {"origin": dict(backbone.origin)},
        "methods": methods_of(ready),
        "targets": [{"name": t.alias, "target": t.name, "argument": t.argument, **t.args} for t in ready.questions.targets],
        "metrics": [
            {"name": m.alias, "metric": m.name, "stored": m.alias in ready.questions.stored, **m.args} for m in ready.questions.metrics
        ],
        "skipped": ready.skipped,
        "shards": [{"name": s.name, "identity": i.identity, "images": i.count} for s, i in work.indexes.items()],
        "cells": [
            {"table": c.table, "identity": c.identity, **{asked: (r := getattr(c, asked)) and r.alias for asked in _ASKED}}
            for c in ready.cells
        ],
        "versions": {name: version(name) for name in ("torch", "timm", "open_clip_torch", "pyarrow", "numpy")},
    }


def methods_of(ready: Prepared) -> list[dict]:
    """The methods as run.json describes them."""
    return [{**m.args, "name": m.alias, "method": m.name, "version": METHODS[m.name].version} for m in ready.questions.methods]


def _public(value):
    """A field of the job without the credentials that a URL may carry."""
    if isinstance(value, tuple):
        return [_public(part) for part in value]
    return storage.public(value) if isinstance(value, str) else value


def _passes(work: Work) -> dict:
    """What this run's answers have cost, whenever they were computed; of a call that also answered other questions, its own share."""
    asked: dict[str, set[str]] = {}
    for task in work.done:
        for identity, cell in work.answers(task).items():
            names = {cell.method and cell.method.alias, cell.metric and cell.metric.name, "look"}
            asked.setdefault(work.answered[identity].folder, set()).update(names)
    spent = {receipt.folder: receipt.facts.get("passes", {}) for receipt in work.answered.values()}
    return passes.summed({payer: spent[folder][payer] for payer in spent[folder].keys() & names} for folder, names in asked.items())


def _timed(work: Work, publish_seconds: float) -> dict:
    finished = time.time()
    return {
        "started": datetime.fromtimestamp(work.started, UTC).isoformat(),
        "finished": datetime.fromtimestamp(finished, UTC).isoformat(),
        "seconds": round(finished - work.started, 3),
        "spent": {**work.spent, "publish_seconds": round(publish_seconds, 3)},
    }
