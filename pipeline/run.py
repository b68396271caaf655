"""A job from start to end: list, plan, explain, finish."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline import rescore, sources, storage
from pipeline.finish import Outcome, Work, finish
from pipeline.job import Job
from pipeline.prepare import Prepared
from pipeline.progress import Progress
from pipeline.questions import Cell
from pipeline.refusal import Refusal
from pipeline.stages import Explain, Land, Task
from pipeline.tables import files, publish, receipts
from pipeline.tables.receipts import Receipt

log = logging.getLogger(__name__)


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


def execute(ready: Prepared, hands: Hands) -> Outcome | None:
    """Explain what is missing and publish the run; a dry job says what that would be, and is None."""
    job, started = ready.job, time.time()
    indexes = _index(ready.shards, hands)
    tasks = _tasks(ready, indexes)
    _refuse_without_labels(ready, indexes)
    previous = publish.current(job.out).get(job.name)
    answered = _answered(job.out, previous)
    wanted = ready.cells
    whole, failures = rescore.explained(ready, tasks, indexes, answered) if ready.base else (tasks, [])
    todo = [_missing(task, wanted, answered) for task in whole]
    todo = [rescore.with_maps(task, wanted, answered) for task in todo if task.missing]
    log.info("%d images in %d tasks; %d tasks have something missing", sum(t.stop - t.start for t in tasks), len(tasks), len(todo))
    if job.dry:
        _tell_dry(todo, wanted, len(tasks))
        return None
    failed, spent = _explain(ready, todo, hands, answered)
    return finish(Work(ready, tasks, indexes, answered, failures + failed, previous, started, spent), hands.each)


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
    if asked and asked <= {"label", "pairs"} and not any(index.labelled for index in indexes.values()):
        raise Refusal(f"no image carries a label, so --targets {' '.join(sorted(asked))} explains nothing; use --targets predicted")


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
        what = " ".join([cell.table, *(asked.alias for asked in (cell.metric, cell.method, cell.target) if asked)])
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
