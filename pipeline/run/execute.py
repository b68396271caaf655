"""A job from start to end: list, plan, explain, publish."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import sources, storage
from pipeline.engine import costs
from pipeline.monitor.monitor import Monitor
from pipeline.plan import dry_run, rescore
from pipeline.plan.check import CheckedJob
from pipeline.plan.state import RunState
from pipeline.plan.task import Task
from pipeline.reduce.manifest import methods_of
from pipeline.reduce.publish_run import PublishResult, damaged, publish_run
from pipeline.refusal import Refusal, one_line
from pipeline.run.executor import Executor
from pipeline.stages.explain import Explain
from pipeline.stages.land import Land
from pipeline.stages.read import Read
from pipeline.stages.score import ScoreStored
from pipeline.tables import publish, receipts
from pipeline.tables.receipts import Damaged, Receipt
from pipeline.targets import TARGETS

log = logging.getLogger(__name__)


def execute(checked: CheckedJob, executor: Executor) -> PublishResult | None:
    """Explain the missing outputs and publish the run; a dry job prints what is missing, and returns None.

    Raises:
        Damaged: where files of tasks were damaged, computed again, and damaged once more.
    """
    job, started = checked.job, time.time()
    monitor = Monitor(job.log) if job.dry else Monitor(job.log, job.out, job.name)
    try:
        state = _plan(checked, executor, monitor, started)
        open_tasks = _open_tasks_of(state)
        counts = {"images": _count_images(state.tasks), "tasks": len(state.tasks), "tasks_missing": len(open_tasks)}
        monitor.record("planned", **counts)
        monitor.show("plan: {images} images in {tasks} tasks, {tasks_missing} of them with something missing".format(**counts))
        if job.dry:
            dry_run.print_dry_run(open_tasks, checked.outputs, len(state.tasks), methods_of(checked), state.before)
            return None
        result = _publish(_explain_missing(state, open_tasks, executor, monitor), executor, monitor)
    except BaseException as error:
        monitor.end("failed", reason=f"{type(error).__name__}: {one_line(error)}")
        raise
    table = costs.table(monitor.costs)
    monitor.end("finished", table, run_id=result.run_id, published=result.new, counts=result.counts)
    return result


def _plan(checked: CheckedJob, executor: Executor, monitor: Monitor, started: float) -> RunState:
    """List the shards, cut them into tasks and load the receipts of earlier jobs."""
    indexes = _index_shards(checked.shards, executor, monitor)
    list_seconds = time.time() - started
    tasks = _cut_tasks(checked, indexes)
    _refuse_without_labels(checked, indexes)
    previous = publish.current(checked.job.out).get(checked.job.name)
    receipts_of = _load_receipts(checked.job.out, previous)
    state = RunState(checked, tasks, indexes, receipts_of, (), previous, started, {"list_seconds": round(list_seconds, 3)})
    return replace(state, failures=rescore.unexplained_tasks(state))


def _publish(state: RunState, executor: Executor, monitor: Monitor) -> PublishResult:
    """Publish the run; where files of tasks turn out to be damaged, compute these again and publish then."""
    try:
        return publish_run(state, executor.map, monitor)
    except Damaged as error:
        folders = damaged(state, executor.map)
        log.warning("%s: what %d receipts named is computed again", error, len(folders))
    receipts.discard(state.checked.job.out, folders)
    sound = {task: tuple(receipt for receipt in of_task if receipt.folder not in folders) for task, of_task in state.receipts_of.items()}
    state = replace(state, receipts_of=sound, failures=())  # failed tasks are open, and so tried again as well
    state = replace(state, failures=rescore.unexplained_tasks(state))
    return publish_run(_explain_missing(state, _open_tasks_of(state), executor, monitor), executor.map, monitor)


def _count_images(tasks: Sequence[Task]) -> int:
    return sum(task.stop - task.start for task in tasks)


def _index_shards(shards: Sequence[sources.Shard], executor: Executor, monitor: Monitor) -> dict[sources.Shard, sources.Index]:
    indexes = {}
    with monitor.stage("list", len(shards), "shards"):
        for position, index in executor.map(sources.numbered_index, list(enumerate(shards))):
            indexes[shards[position]] = index
            monitor.add(failed=bool(index.problems))
    return {shard: indexes[shard] for shard in shards}


def _cut_tasks(checked: CheckedJob, indexes: dict[sources.Shard, sources.Index]) -> list[Task]:
    limit, step, tasks = checked.job.limit, checked.job.task_images, []
    for shard, index in indexes.items():
        count = index.count if limit is None else min(limit, index.count)
        limit = None if limit is None else limit - count
        tasks += [Task.of(shard, index, start, min(start + step, count)) for start in range(0, count, step)]
    return tasks


def _refuse_without_labels(checked: CheckedJob, indexes: dict[sources.Shard, sources.Index]) -> None:
    targets = {target.name for _, target in checked.spec.pairs()} - {"none"}
    images = sum(index.count for index in indexes.values())
    if not images:
        problems = [problem for index in indexes.values() for problem in index.problems]
        raise Refusal(f"there is no image in {' '.join(checked.job.source)}" + (f": {problems[0].message}" if problems else ""))
    if targets and all(TARGETS[name].needs_label for name in targets) and not any(index.labelled for index in indexes.values()):
        raise Refusal(f"no image carries a label, so --targets {' '.join(sorted(targets))} explains nothing; use --targets predicted")


def _load_receipts(out: str, previous: str | None) -> dict[str, tuple[Receipt, ...]]:
    """Load the receipts of every task, by its id; those of the run `previous` come from its one file."""
    previous_receipts = []
    if previous:
        try:
            previous_receipts = receipts.unpack(storage.read_bytes(storage.join(out, "runs", previous, "receipts.parquet")))
        except (OSError, Damaged, pa.ArrowException) as error:
            log.warning("the receipts of run %s cannot be read (%s): every task is looked up", previous, one_line(error))
    return _add_receipts({}, receipts.load(out, previous_receipts))


def _add_receipts(receipts_of: Mapping[str, tuple[Receipt, ...]], more: Iterable[Receipt]) -> dict[str, tuple[Receipt, ...]]:
    """Add more receipts to those of the tasks, behind the ones that are there."""
    extended = dict(receipts_of)
    for receipt in more:
        extended[receipt.task] = (*extended.get(receipt.task, ()), receipt)
    return extended


def _open_tasks_of(state: RunState) -> list[Task]:
    """The tasks with missing outputs, each with the row groups of the stored maps that these are computed from."""
    return [rescore.with_stored_maps(task, state) for task in state.unfinished]


def _explain_missing(state: RunState, open_tasks: Sequence[Task], executor: Executor, monitor: Monitor) -> RunState:
    """Explain the open tasks; returns the state with their receipts or failures, and with the time and bytes spent."""
    if not open_tasks:
        return state
    checked, new_receipts, failures = state.checked, [], list(state.failures)
    job = checked.job
    device = "cuda" if executor.gpus else "cpu"
    batch_size = None if job.batch_size == "auto" else int(job.batch_size)
    stage: type[Explain] = ScoreStored if checked.spec.stored else Explain
    load = partial(stage.load, checked.network, checked.spec, checked.classes.names, device, batch_size, None if executor.gpus else 1)
    spent: Counter[Any] = Counter(state.spent)
    tasks = [task.to_json() for task in open_tasks]
    with monitor.stage("explain", _count_images(open_tasks), "images", tasks=len(open_tasks), tasks_done=0) as progress:
        for text in executor.explain_tasks(tasks, Read.of(checked), load, Land(job.out), executor.workers, executor.gpus, job.task_timeout):
            failure = receipts.failure(text)
            if failure:
                failures.append(failure)
                monitor.task(failure["images"], failure["images"], "task_failed", failure)
                continue
            receipt = Receipt.from_json(text)
            new_receipts.append(receipt)
            spent.update(_spent_on(receipt))
            monitor.costs.update(costs.costs_of(receipt.facts))
            count, failed = receipt.facts["stop"] - receipt.facts["start"], receipt.facts["failed"]
            monitor.task(count, failed, "task_done", {"task": receipt.task, **receipt.facts})
    spent.update({"wall_seconds": progress.seconds})
    rate = {"images_per_second": round(_count_images(open_tasks) / max(progress.seconds, 1e-9), 3)}
    rounded = {name: round(value, 3) for name, value in spent.items()}
    return replace(state, receipts_of=_add_receipts(state.receipts_of, new_receipts), failures=failures, spent=rounded | rate)


def _spent_on(receipt: Receipt) -> dict[str, float]:
    """The seconds, bytes and retries of one task, for run.json to add up."""
    seconds = {f"{stage}_seconds": seconds for stage, seconds in receipt.facts["seconds"].items()}
    written = sum(entry["bytes"] for entry in receipt.files.values())
    return {**seconds, "bytes_read": receipt.facts["bytes_read"], "bytes_written": written, "retries": receipt.facts["retries"]}
