"""A job from start to end: list, index, plan, explain, reduce, publish."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from pipeline import reduce, sources, storage
from pipeline.backbones import Backbone
from pipeline.job import Job
from pipeline.progress import Progress
from pipeline.questions import Cell, Network, Questions, ask, cells, fitted
from pipeline.refusal import Refusal
from pipeline.sources.labels import Classes, folder_names, read_classes
from pipeline.stages import Explain, Land, Read, Task
from pipeline.tables import files, publish, receipts, schema
from pipeline.tables.identity import digest
from pipeline.tables.receipts import Receipt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A job that has been checked as far as that goes without a worker."""

    job: Job
    network: Network
    backbone: Backbone
    questions: Questions
    skipped: list[dict]
    shards: list[sources.Shard]
    classes: Classes
    names_are_labels: bool

    @property
    def cells(self) -> list[Cell]:
        return cells(self.questions, self.backbone, self.classes.names)

    @property
    def read(self) -> Read:
        prepare = self.backbone.prepare
        return Read(self.backbone.image_size, prepare.interpolation, prepare.crop, prepare.crop_pct, self.classes, self.names_are_labels)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the run now published under its name, and the counts its last line tells."""

    run_id: str | None
    counts: dict
    new: bool

    @property
    def complete(self) -> bool:
        return self.run_id is not None and not self.counts["shards_failed"]


def prepare(job: Job) -> Prepared:
    """Check everything that can be wrong with a job before a worker is started.

    Raises:
        Refusal: in one line, with the fix.
    """
    files.writable(job.out)
    arguments = tuple(_key_value(item, "--backbone-args") for item in job.backbone_args)
    network = Network(job.backbone, job.weights, arguments, job.layer, job.image_size, job.crop, job.seed)
    asked = ask(
        job.methods,
        job.targets,
        job.method_args,
        job.target_args,
        activation=job.activation,
        precision=job.precision,
        map_size=job.map_size,
        seed=job.seed,
        select=job.select,
        no_store=job.no_store,
    )
    shards = sources.list_shards(job.source)
    backbone = network.load()
    questions, skipped = fitted(asked, backbone)
    for item in skipped:
        log.warning("skipping %s: %s", item["method"], item["reason"])
    classes, named = _classes(job, shards, backbone.num_classes, questions)
    return Prepared(job, network, backbone, questions, skipped, shards, classes, named)


def _classes(job: Job, shards: Sequence[sources.Shard], count: int, questions: Questions) -> tuple[Classes, bool]:
    """The classes in order, and whether a folder's or a sample's class name says which of them is meant."""
    folders = folder_names(shards)
    if job.classes:
        return read_classes(job.classes, count), True
    if not folders or len(folders) == count:
        return Classes(count, folders), True
    if any(target.name == "label" for _, target in questions.pairs()):
        raise Refusal(
            f"the folders name {len(folders)} classes and the network has {count}, so their order is unknown; "
            "give --classes FILE with one class name a line, or explain --targets predicted"
        )
    log.warning("the folders name %d classes and the network has %d: images go without a label", len(folders), count)
    return Classes(count), False


def _key_value(item: str, flag: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise Refusal(f"cannot read {flag} {item!r}; write KEY=VALUE")
    return key, text


@dataclass(frozen=True)
class Hands:
    """Who does the work: `each` maps a function over items, `explain_tasks` runs the flow; both on Ray or in this process."""

    each: Callable
    explain_tasks: Callable
    workers: int
    gpus: int

    @staticmethod
    def of(job: Job, cpus: int, gpus: int) -> "Hands":
        """Ray's hands for a cluster of so many CPUs and GPUs, or this process where the job asks for 0 workers."""
        if job.workers == 0:
            from pipeline import inline as flow
        else:
            from pipeline import flow
        if job.device == "cuda" and not gpus:
            raise Refusal("--device cuda: there is no GPU here; use --device cpu or auto")
        gpus = 0 if job.device == "cpu" else gpus
        return Hands(flow.each, flow.explain_tasks, job.workers or gpus or cpus, gpus)


def execute(ready: Prepared, hands: Hands) -> Outcome:
    """Explain what is missing and publish the run."""
    job, started = ready.job, time.time()
    indexes = _index(ready.shards, hands)
    tasks = _tasks(ready, indexes)
    _refuse_without_labels(ready, indexes)
    previous = publish.current(job.out).get(job.name)
    answered = _answered(job.out, previous)
    wanted = ready.cells
    todo = [_missing(task, wanted, answered) for task in tasks]
    todo = [task for task in todo if task.missing]
    log.info("%d images in %d tasks; %d tasks have something missing", sum(t.stop - t.start for t in tasks), len(tasks), len(todo))
    if job.dry:
        _tell_dry(todo, wanted, len(tasks))
        return Outcome(previous, {"shards_failed": 0}, new=False)
    failures, spent = _explain(ready, todo, hands, answered)
    facts = {"started": started, "spent": spent}
    return _publish(ready, hands, tasks, indexes, answered, failures, previous, facts)


def _index(shards: Sequence[sources.Shard], hands: Hands) -> dict[sources.Shard, sources.Index]:
    progress, found = Progress("list", len(shards), "shards"), {}
    for position, index in hands.each(index_shard, list(enumerate(shards))):
        found[shards[position]] = index
        progress.add(1, len(index.problems))
    return {shard: found[shard] for shard in shards}


def index_shard(numbered: tuple[int, sources.Shard]) -> tuple[int, sources.Index]:
    """One shard's index, with the position it was asked for."""
    return numbered[0], sources.index(numbered[1])


def _tasks(ready: Prepared, indexes: dict[sources.Shard, sources.Index]) -> list[Task]:
    left, step, tasks = ready.job.limit, ready.job.task_images, []
    for shard, index in indexes.items():
        count = index.count if left is None else min(left, index.count)
        left = None if left is None else left - count
        tasks += [Task.of(shard, index, start, min(start + step, count)) for start in range(0, count, step)]
    return tasks


def _refuse_without_labels(ready: Prepared, indexes: dict[sources.Shard, sources.Index]) -> None:
    asked = {target.name for _, target in ready.questions.pairs()} - {"none"}
    images = sum(index.count for index in indexes.values())
    if not images:
        problems = [problem for index in indexes.values() for problem in index.problems]
        raise Refusal(f"there is no image in {' '.join(ready.job.source)}" + (f": {problems[0].message}" if problems else ""))
    if asked == {"label"} and not any(index.labelled for index in indexes.values()):
        raise Refusal("no image carries a label, so --targets label explains nothing; use --targets predicted")


def _answered(out: str, previous: str | None) -> dict[str, Receipt]:
    """Every cell that has been answered, with the receipt that says so."""
    known = []
    if previous:
        known = receipts.unpack(files.read_parquet(storage.join(out, "runs", previous, "receipts.parquet")))
    return {cell: receipt for receipt in receipts.load(out, known) for cell in receipt.cells}


def _missing(task: Task, wanted: Sequence[Cell], answered: dict[str, Receipt]) -> Task:
    return replace(task, missing=tuple(i for i, cell in enumerate(wanted) if task.cell(cell.identity) not in answered))


def _tell_dry(todo: Sequence[Task], wanted: Sequence[Cell], tasks: int) -> None:
    for i, cell in enumerate(wanted):
        count = sum(i in task.missing for task in todo)
        what = f"{cell.table} {cell.method.alias} {cell.target.alias}" if cell.method else cell.table
        print(f"{what}: {count} of {tasks} tasks to compute")
    print(f"{sum(task.stop - task.start for task in todo)} images would be read")


def _explain(ready: Prepared, todo: Sequence[Task], hands: Hands, answered: dict[str, Receipt]) -> tuple[list[dict], dict]:
    """Run the flow over the tasks; new receipts go into `answered`. Returns the shards that failed, and the seconds spent by stage."""
    failures, spent = [], {"read": 0.0, "explain": 0.0}
    if not todo:
        return failures, spent
    job = ready.job
    device = "cuda" if hands.gpus else "cpu"
    batch_size = None if job.batch_size == "auto" else int(job.batch_size)
    load = partial(Explain.load, ready.network, ready.questions, ready.classes.names, device, batch_size, None if hands.gpus else 1)
    progress = Progress("explain", sum(task.stop - task.start for task in todo), "images")
    for text in hands.explain_tasks([t.to_json() for t in todo], ready.read, load, Land(job.out), hands.workers, hands.gpus):
        told = receipts.failure(text)
        if told:
            failures.append(told)
            progress.add(told["images"], told["images"])
            continue
        receipt = Receipt.from_json(text)
        answered.update(dict.fromkeys(receipt.cells, receipt))
        for stage in spent:
            spent[stage] += receipt.facts["seconds"][stage]
        progress.add(receipt.facts["stop"] - receipt.facts["start"], receipt.facts["failed"])
    return failures, {
        **{f"{stage}_seconds": round(seconds, 3) for stage, seconds in spent.items()},
        "wall_seconds": round(progress.seconds, 3),
    }


def _publish(ready, hands, tasks, indexes, answered, failures, previous, facts) -> Outcome:
    """Compact what the plan's cells came to, write run.json, flip current.json."""
    job, wanted = ready.job, ready.cells
    done = [task for task in tasks if all(task.cell(cell.identity) in answered for cell in wanted)]
    problems = _shard_problems(indexes, failures)
    plan = digest([sorted(task.cell(cell.identity) for task in done for cell in wanted), problems])
    before = publish.run_json(job.out, previous) if previous else None
    seen = sum(task.stop - task.start for task in tasks)
    if before and before["plan"] == plan:
        return Outcome(previous, before["counts"], new=False)
    if not done:
        raise Refusal(f"no image could be read, so nothing is published; the first reason: {problems[0]['message']}")
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{plan[:8]}"
    published = _compact(ready, hands, done, answered, run_id, before, previous)
    published += _fill_empty(job.out, run_id, ready, published, problems)
    predicted = sum(entry["rows"] for entry in published if entry["table"] == "predictions")
    explained = predicted - sum(entry.get("incomplete", 0) for entry in published)
    counts = {
        "images": seen,
        "explained": explained,
        "failed": seen - explained,
        "shards": len(indexes),
        "shards_failed": len({problem["shard"] for problem in problems}),
        "errors": sum(entry["rows"] for entry in published if entry["table"] == "errors"),
    }
    used = {answered[task.cell(cell.identity)].folder: answered[task.cell(cell.identity)] for task in done for cell in wanted}
    files.write_parquet(storage.join(job.out, "runs", run_id, "receipts.parquet"), receipts.pack(used.values()))
    run = {
        "run_id": run_id,
        "plan": plan,
        "counts": counts,
        "files": published,
        "previous": previous,
        **_described(ready, indexes),
        **_timed(facts),
    }
    files.write_json(storage.join(job.out, "runs", run_id, "run.json"), run)
    publish.flip(job.out, job.name, run_id, previous, job.single_writer)
    return Outcome(run_id, counts, new=True)


def _shard_problems(indexes: dict[sources.Shard, sources.Index], failures: Sequence[dict]) -> list[dict]:
    told = [vars(problem) for index in indexes.values() for problem in index.problems]
    told += [{"image_id": None, "shard": f["shard"], "stage": "read", "error": f["error"], "message": f["message"]} for f in failures]
    return sorted(told, key=lambda problem: tuple(map(str, problem.values())))


def _compact(ready, hands, done, answered, run_id, before, previous) -> list[dict]:
    starts = reduce.boundaries({task.shard.name for task in done})
    groups, last = [], None
    for task in done:
        if not groups or (task.shard.name in starts and task.shard.name != last):
            groups.append([])
        last = task.shard.name
        for cell in ready.cells:
            identity = task.cell(cell.identity)
            groups[-1].append(reduce.Member(identity, cell.method.alias if cell.method else None, answered[identity]))
    earlier = {entry["path"]: entry for entry in before["files"]} if before else {}
    progress, entries = Progress("publish", len(groups), "groups"), []
    for more in hands.each(partial(compact_group, ready.job.out, run_id, earlier, previous), groups):
        entries += more
        progress.add(1)
    return sorted(entries, key=lambda entry: entry["path"])


def compact_group(out: str, run_id: str, earlier: dict, previous: str | None, group: list[reduce.Member]) -> list[dict]:
    return reduce.compact(out, run_id, group, earlier, previous)


def _fill_empty(out: str, run_id: str, ready: Prepared, present: list[dict], problems: list[dict]) -> list[dict]:
    """The shards' own errors, and an empty file for every table without rows, so that queries over it answer with nothing."""
    forms = {"errors": schema.ERRORS, "images": schema.IMAGES, "maps": schema.MAPS}
    forms["predictions"] = schema.predictions(ready.backbone.num_classes, "logits" not in ready.questions.no_store)
    if "features" not in ready.questions.no_store:
        forms["features"] = schema.features(ready.backbone.feature_width)
    tables, added = {entry["table"] for entry in present}, []
    for table, form in forms.items():
        rows = form.empty_table() if table != "errors" else schema.errors(problems)
        if table not in tables or rows.num_rows:
            column = schema.PARTITIONED.get(table)
            folder = f"{table}/{column}={ready.questions.methods[0].alias}" if column else table
            path = f"{folder}/part-{digest(rows.to_pylist())}.parquet"
            added.append(reduce.write(storage.join(out, "runs", run_id, path), path, table, rows))
    return added


def _described(ready: Prepared, indexes: dict[sources.Shard, sources.Index]) -> dict:
    from importlib.metadata import version

    backbone = ready.backbone
    return {
        "job": vars(ready.job),
        "backbone": {key: getattr(backbone, key) for key in ("name", "layer", "num_classes", "channels", "grid", "image_size", "identity")},
        "methods": [{"name": m.alias, "method": m.name, **m.args} for m in ready.questions.methods],
        "targets": [{"name": t.alias, "target": t.name, "argument": t.argument, **t.args} for t in ready.questions.targets],
        "skipped": ready.skipped,
        "shards": [{"name": s.name, "identity": i.identity, "images": i.count} for s, i in indexes.items()],
        "cells": [
            {"table": c.table, "method": c.method and c.method.alias, "target": c.target and c.target.alias, "identity": c.identity}
            for c in ready.cells
        ],
        "versions": {name: version(name) for name in ("torch", "timm", "pyarrow", "numpy")},
    }


def _timed(facts: dict) -> dict:
    finished = time.time()
    return {
        "started": datetime.fromtimestamp(facts["started"], UTC).isoformat(),
        "finished": datetime.fromtimestamp(finished, UTC).isoformat(),
        "seconds": round(finished - facts["started"], 3),
        "spent": facts["spent"],
    }
