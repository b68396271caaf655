"""A job from start to end: list, plan, explain, finish."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import sources, storage
from pipeline.engine import costs as passes
from pipeline.monitor.monitor import Monitor
from pipeline.plan import dry_run, rescore
from pipeline.plan.check import CheckedJob
from pipeline.plan.state import RunState
from pipeline.plan.task import Task
from pipeline.reduce.manifest import methods_of
from pipeline.reduce.publish_run import PublishResult, damaged, publish_run
from pipeline.refusal import Refusal, one_line
from pipeline.run.executor import Executor
from pipeline.stages.land import Land
from pipeline.stages.read import Read
from pipeline.stages.score import ScoreStored
from pipeline.stages.worker import Explain
from pipeline.tables import publish, receipts
from pipeline.tables.receipts import Damaged, Receipt
from pipeline.targets import TARGETS

log = logging.getLogger(__name__)


def execute(checked: CheckedJob, executor: Executor) -> PublishResult | None:
    """Explain what is missing and publish the run; a dry job says what that would be, and is None.

    Raises:
        Damaged: where files of tasks were damaged, computed again, and damaged once more.
    """
    job, started = checked.job, time.time()
    monitor = Monitor(job.log) if job.dry else Monitor(job.log, job.out, job.name)
    try:
        work = _planned(checked, executor, monitor, started)
        todo = _todo(work)
        counts = {"images": _images(work.tasks), "tasks": len(work.tasks), "tasks_missing": len(todo)}
        monitor.tell("planned", **counts)
        monitor.show("plan: {images} images in {tasks} tasks, {tasks_missing} of them with something missing".format(**counts))
        if job.dry:
            dry_run.print_dry_run(todo, checked.cells, len(work.tasks), methods_of(checked), work.before)
            return None
        outcome = _finished(_explained(work, todo, executor, monitor), executor, monitor)
    except BaseException as error:
        monitor.end("failed", reason=f"{type(error).__name__}: {one_line(error)}")
        raise
    table = passes.table(monitor.costs)
    monitor.end("finished", table, run_id=outcome.run_id, published=outcome.new, counts=outcome.counts)
    return outcome


def _planned(checked: CheckedJob, executor: Executor, monitor: Monitor, started: float) -> RunState:
    """The job's tasks and what of them has been answered before."""
    indexes = _index(checked.shards, executor, monitor)
    listed = time.time() - started
    tasks = _tasks(checked, indexes)
    _refuse_without_labels(checked, indexes)
    previous = publish.current(checked.job.out).get(checked.job.name)
    answered = _answered(checked.job.out, previous)
    work = RunState(checked, tasks, indexes, answered, (), previous, started, {"list_seconds": round(listed, 3)})
    return replace(work, failures=rescore.unexplained_tasks(work))


def _finished(work: RunState, executor: Executor, monitor: Monitor) -> PublishResult:
    """Publish; where files of tasks turn out to be damaged, compute these again and publish then."""
    try:
        return publish_run(work, executor.map, monitor)
    except Damaged as error:
        folders = damaged(work, executor.map)
        log.warning("%s: what %d receipts named is computed again", error, len(folders))
    receipts.discard(work.checked.job.out, folders)
    sound = {task: tuple(each for each in answers if each.folder not in folders) for task, answers in work.answered.items()}
    work = replace(work, answered=sound, failures=())  # what failed is open, and so tried again as well
    work = replace(work, failures=rescore.unexplained_tasks(work))
    return publish_run(_explained(work, _todo(work), executor, monitor), executor.map, monitor)


def _images(tasks: Sequence[Task]) -> int:
    return sum(task.stop - task.start for task in tasks)


def _index(shards: Sequence[sources.Shard], executor: Executor, monitor: Monitor) -> dict[sources.Shard, sources.Index]:
    indexes = {}
    with monitor.stage("list", len(shards), "shards"):
        for position, index in executor.map(sources.numbered_index, list(enumerate(shards))):
            indexes[shards[position]] = index
            monitor.add(failed=bool(index.problems))
    return {shard: indexes[shard] for shard in shards}


def _tasks(checked: CheckedJob, indexes: dict[sources.Shard, sources.Index]) -> list[Task]:
    left, step, tasks = checked.job.limit, checked.job.task_images, []
    for shard, index in indexes.items():
        count = index.count if left is None else min(left, index.count)
        left = None if left is None else left - count
        tasks += [Task.of(shard, index, start, min(start + step, count)) for start in range(0, count, step)]
    return tasks


def _refuse_without_labels(checked: CheckedJob, indexes: dict[sources.Shard, sources.Index]) -> None:
    asked = {target.name for _, target in checked.spec.pairs()} - {"none"}
    images = sum(index.count for index in indexes.values())
    if not images:
        problems = [problem for index in indexes.values() for problem in index.problems]
        raise Refusal(f"there is no image in {' '.join(checked.job.source)}" + (f": {problems[0].message}" if problems else ""))
    if asked and all(TARGETS[name].needs_label for name in asked) and not any(index.labelled for index in indexes.values()):
        raise Refusal(f"no image carries a label, so --targets {' '.join(sorted(asked))} explains nothing; use --targets predicted")


def _answered(out: str, previous: str | None) -> dict[str, tuple[Receipt, ...]]:
    """The receipts of every task, by its id."""
    known = []
    if previous:
        try:
            known = receipts.unpack(storage.read_bytes(storage.join(out, "runs", previous, "receipts.parquet")))
        except (OSError, Damaged, pa.ArrowException) as error:
            log.warning("the receipts of run %s cannot be read (%s): every task is looked up", previous, one_line(error))
    return _by_task({}, receipts.load(out, known))


def _by_task(answered: Mapping[str, tuple[Receipt, ...]], more: Iterable[Receipt]) -> dict[str, tuple[Receipt, ...]]:
    """What has been answered, with more receipts behind those that are there."""
    found = dict(answered)
    for receipt in more:
        found[receipt.task] = (*found.get(receipt.task, ()), receipt)
    return found


def _todo(work: RunState) -> list[Task]:
    """The tasks with missing outputs, each with the places of the stored maps that these are computed from."""
    return [rescore.with_stored_maps(task, work) for task in work.unfinished]


def _explained(work: RunState, todo: Sequence[Task], executor: Executor, monitor: Monitor) -> RunState:
    """The work after the flow has gone over its open tasks: with their receipts, or with why there is none, and what was spent."""
    if not todo:
        return work
    checked, fresh, failures = work.checked, [], list(work.failures)
    job = checked.job
    device = "cuda" if executor.gpus else "cpu"
    batch_size = None if job.batch_size == "auto" else int(job.batch_size)
    stage: type[Explain] = ScoreStored if checked.spec.stored else Explain
    load = partial(stage.load, checked.network, checked.spec, checked.classes.names, device, batch_size, None if executor.gpus else 1)
    spent: Counter[Any] = Counter(work.spent)
    tasks = [task.to_json() for task in todo]
    with monitor.stage("explain", _images(todo), "images", tasks=len(todo), tasks_done=0) as progress:
        for text in executor.explain_tasks(tasks, Read.of(checked), load, Land(job.out), executor.workers, executor.gpus, job.task_timeout):
            failure = receipts.failure(text)
            if failure:
                failures.append(failure)
                monitor.task(failure["images"], failure["images"], "task_failed", failure)
                continue
            receipt = Receipt.from_json(text)
            fresh.append(receipt)
            spent.update(_spent(receipt))
            monitor.costs.update(passes.costs_of(receipt.facts))
            count, failed = receipt.facts["stop"] - receipt.facts["start"], receipt.facts["failed"]
            monitor.task(count, failed, "task_done", {"task": receipt.task, **receipt.facts})
    spent.update({"wall_seconds": progress.seconds})
    rate = {"images_per_second": round(_images(todo) / max(progress.seconds, 1e-9), 3)}
    rounded = {name: round(value, 3) for name, value in spent.items()}
    return replace(work, answered=_by_task(work.answered, fresh), failures=failures, spent=rounded | rate)


def _spent(receipt: Receipt) -> dict[str, float]:
    """What one task cost, for run.json to add up."""
    seconds = {f"{stage}_seconds": seconds for stage, seconds in receipt.facts["seconds"].items()}
    written = sum(entry["bytes"] for entry in receipt.files.values())
    return {**seconds, "bytes_read": receipt.facts["bytes_read"], "bytes_written": written, "retries": receipt.facts["retries"]}
