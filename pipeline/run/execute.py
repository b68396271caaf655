"""A job from start to end: list, plan, explain, publish."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import sources, storage, tables
from pipeline.engine import costs
from pipeline.monitor.monitor import Monitor
from pipeline.plan import dry_run, rescore
from pipeline.plan.census import Accept, Census, index_and_count
from pipeline.plan.check import CheckedJob
from pipeline.plan.dropped import ADDABLE, dropped_by
from pipeline.plan.dropped import in_words as dropped_in_words
from pipeline.plan.state import RunState
from pipeline.plan.task import Task
from pipeline.plan.tasks import cut_tasks, in_words
from pipeline.reduce.analyses import with_analyses
from pipeline.reduce.manifest import methods_of
from pipeline.reduce.publish_run import PublishResult, damaged, publish_run
from pipeline.refusal import counted, one_line
from pipeline.run.executor import Executor
from pipeline.run.exit_codes import OutOfTime
from pipeline.stages.explain import Explain
from pipeline.stages.land import Land
from pipeline.stages.read import Read
from pipeline.stages.score import ScoreStored
from pipeline.tables import publish, receipts
from pipeline.tables.lake.commit import commit_run, place
from pipeline.tables.receipts import Damaged, Receipt
from pipeline.targets import TARGETS

log = logging.getLogger(__name__)


def execute(checked: CheckedJob, executor: Executor, accept: Accept | None = None) -> PublishResult | None:
    """Explain the missing outputs and publish the run; a dry job prints what is missing, and returns None.

    Parameters:
        accept: is given the labels of every shard before any image is explained, and may refuse them.

    Raises:
        Damaged: where files of tasks were damaged, computed again, and damaged once more.
    """
    checked, started = with_analyses(checked), time.time()
    job = checked.job
    monitor = Monitor(job.log) if job.dry else Monitor(job.log, job.out, job.name)
    try:
        state = state_of(checked, executor, monitor, started, accept)
        open_tasks = open_tasks_of(state)
        _tell_plan(state, open_tasks, monitor)
        if job.dry:
            names = [choice.name for choice in checked.analyses]
            dry_run.print_dry_run(open_tasks, checked.outputs, len(state.tasks), methods_of(checked), state.before, names)
            return None
        result = _publish(_explain_missing(state, open_tasks, executor, monitor), executor, monitor)
        if job.delta:
            run = place(tables.open(job.out, run_id=result.run_id), job.name, monitor.show)
            commits = commit_run(run, job.name, monitor.show)
            monitor.record("committed", versions={commit.table: commit.version for commit in commits})
    except BaseException as error:
        monitor.end("failed", reason=f"{type(error).__name__}: {one_line(error)}")
        raise
    table = costs.table(monitor.costs)
    monitor.end("finished", table, run_id=result.run_id, published=result.new, counts=result.counts)
    return result


def state_of(checked: CheckedJob, executor: Executor, monitor: Monitor, started: float, accept: Accept | None = None) -> RunState:
    """The state of a job before it explains anything: shards listed and cut into tasks, receipts of earlier jobs loaded."""
    census = Census(by_shard={} if accept else None)
    indexes = _index_shards(checked, executor, monitor, census)
    list_seconds = time.time() - started
    problems = [problem for index in indexes.values() for problem in index.problems]
    targets = {target.name for _, target in checked.spec.pairs()} - {"none"}
    all_need_labels = all(TARGETS[name].needs_label for name in targets)
    census.refuse_nothing_to_explain(checked.job.source, targets if all_need_labels else (), problems)
    if accept and census.by_shard is not None:
        accept(census.by_shard)
    tasks = cut_tasks(checked.job, indexes)
    previous = publish.current(checked.job.out).get(checked.job.name)
    receipts_of = _load_receipts(checked.job.out, previous)
    state = RunState(checked, tasks, indexes, receipts_of, (), previous, started, {"list_seconds": round(list_seconds, 3)})
    return replace(state, failures=rescore.unexplained_tasks(state))


def _tell_plan(state: RunState, open_tasks: Sequence[Task], monitor: Monitor) -> None:
    """Tell what is missing, what the network takes, which images are taken, and what the run published last holds beyond this one."""
    checked, backbone = state.checked, state.checked.backbone
    counts = {"images": _count_images(state.tasks), "tasks": len(state.tasks), "tasks_missing": len(open_tasks)}
    monitor.record("planned", **counts)
    parts = counted(counts["images"], "images"), counted(counts["tasks"], "tasks"), counts["tasks_missing"]
    monitor.show("plan: {} in {}, {} of them with something missing".format(*parts))
    prepare, (height, width) = backbone.prepare, backbone.image_size
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (prepare.mean, prepare.std))
    monitor.show(
        f"network: {backbone.name} takes {width} x {height} pixels ({prepare.crop}, {prepare.interpolation}), mean {mean}, std {std}"
    )
    taken = in_words(checked.job, sum(index.count for index in state.indexes.values()))
    if taken:
        monitor.show(taken)
    dropped = dropped_by(state)
    if dropped:
        hint = "" if checked.base or not dropped.keys() & ADDABLE else "; --add keeps its methods, targets, metrics and analyses"
        monitor.record("dropped", **dropped)
        monitor.show(f"the run published last holds {dropped_in_words(dropped)}, and this one will not{hint}")


def _publish(state: RunState, executor: Executor, monitor: Monitor) -> PublishResult:
    """Publish the run; where files of tasks turn out to be damaged, compute these again and publish then."""
    try:
        return publish_run(state, executor.map, monitor)
    except Damaged as error:
        folders = damaged(state, executor.map)
        log.warning("%s: what %s named is computed again", error, counted(len(folders), "receipts"))
    receipts.discard(state.checked.job.out, folders)
    sound = {task: tuple(receipt for receipt in of_task if receipt.folder not in folders) for task, of_task in state.receipts_of.items()}
    state = replace(state, receipts_of=sound, failures=())  # failed tasks are open, and so tried again as well
    state = replace(state, failures=rescore.unexplained_tasks(state))
    return publish_run(_explain_missing(state, open_tasks_of(state), executor, monitor), executor.map, monitor)


def _count_images(tasks: Sequence[Task]) -> int:
    return sum(task.count for task in tasks)


def _index_shards(checked: CheckedJob, executor: Executor, monitor: Monitor, census: Census) -> dict[sources.Shard, sources.Index]:
    """The index of every shard; their images and labels are added to the census."""
    shards, indexes = checked.shards, {}
    function = partial(index_and_count, checked.classes, checked.names_are_labels)
    with monitor.stage("list", len(shards), "shards"):
        for listed in executor.map(function, list(enumerate(shards))):
            shard = shards[listed.position]
            indexes[shard] = listed.index
            census.add(shard, listed)
            monitor.add(failed=bool(listed.index.problems))
    return {shard: indexes[shard] for shard in shards}


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


def open_tasks_of(state: RunState) -> list[Task]:
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
    tasks, count_of = [task.to_json() for task in open_tasks], {task.id: task.count for task in open_tasks}
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
            if job.stop_after and time.time() - state.started > job.stop_after and len(new_receipts) + len(failures) < len(tasks):
                raise OutOfTime(
                    f"--stop-after {job.stop_after:g} s are over, with {len(new_receipts)} of {counted(len(tasks), 'tasks')} done"
                )
            monitor.task(count_of[receipt.task], receipt.facts["failed"], "task_done", {"task": receipt.task, **receipt.facts})
    spent.update({"wall_seconds": progress.seconds})
    rate = {"images_per_second": round(_count_images(open_tasks) / max(progress.seconds, 1e-9), 3)}
    rounded = {name: round(value, 3) for name, value in spent.items()}
    return replace(state, receipts_of=_add_receipts(state.receipts_of, new_receipts), failures=failures, spent=rounded | rate)


def _spent_on(receipt: Receipt) -> dict[str, float]:
    """The seconds, bytes and retries of one task, for run.json to add up."""
    seconds = {f"{stage}_seconds": seconds for stage, seconds in receipt.facts["seconds"].items()}
    written = sum(entry["bytes"] for entry in receipt.files.values())
    return {**seconds, "bytes_read": receipt.facts["bytes_read"], "bytes_written": written, "retries": receipt.facts["retries"]}
