"""A published run as the job that adds metrics to it, computed from its maps as they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from pipeline import storage
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.check import CheckedJob, check_job
from pipeline.plan.state import RunState
from pipeline.plan.task import Task
from pipeline.refusal import Refusal
from pipeline.sources import ShardError
from pipeline.spec.explain_spec import with_ties
from pipeline.spec.grammar import Choice, parse, parse_all
from pipeline.spec.job import Job
from pipeline.spec.output import Output
from pipeline.spec.plugins import load
from pipeline.tables import Run, receipts


def check_rescoring(run: Run, metrics: Sequence[str], metric_args: Sequence[str] = (), recompute: bool = False, **changes) -> CheckedJob:
    """The job of a published run with more metrics, checked.

    Parameters:
        recompute: compute the maps again and score them as `explain` would, before they are rounded.
        changes: fields of the job that are not as the run has them.

    Raises:
        Refusal: where a metric cannot be had from stored maps, or what the run holds would now be computed otherwise.
    """
    facts, told = run.manifest, job_of(run.manifest)
    load(changes.get("plugins", told.plugins))  # before names are looked up: some may be theirs
    more = parse_all(metrics, METRICS, "metric", metric_args)
    if not more:
        raise Refusal("no metric is asked for; name some with --metrics, for example --metrics energy or family:faithfulness")
    exact, stored = (
        [_choice_of(entry, METRICS, "metric") for entry in facts["metrics"] if entry["stored"] is how] for how in (False, True)
    )
    more = more if recompute else tuple(metric for metric in more if _from_stored(metric))
    had = exact if recompute else exact + stored
    fresh = [metric for metric in with_ties(more, had) if _key_of(metric) not in map(_key_of, had)]
    if recompute:
        exact, stored = exact + fresh, [metric for metric in stored if _key_of(metric) not in map(_key_of, fresh)]
    else:
        stored = stored + fresh
    job = replace(
        told,
        out=run.out,
        methods=tuple(_choice_of(entry, METHODS, "method").written for entry in facts["methods"]),
        metrics=tuple(metric.written for metric in exact),
        method_args=(),
        metric_args=(),
        **changes,
    )
    checked = check_job(job, stored)
    checked = replace(checked, base=run, skipped=[*facts["skipped"], *(item for item in checked.skipped if item not in facts["skipped"])])
    _refuse_another_version(checked)
    return checked


def job_of(facts: Mapping) -> Job:
    """The job that a run.json describes."""
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["job"].items()}
    return Job(**{field.name: told[field.name] for field in fields(Job) if field.name in told})


def _choice_of(entry: Mapping, registry: Mapping, what: str) -> Choice:
    """The method or metric that an entry of run.json describes."""
    settings = tuple(sorted((key, value) for key, value in entry.items() if key not in ("name", what, "stored", "version")))
    return parse(Choice(entry["name"], entry[what], None, settings).written, registry, what)


def _key_of(metric: Choice) -> tuple:
    """What two requests for one metric have in common."""
    return metric.alias, metric.name, metric.settings


def _from_stored(metric: Choice) -> bool:
    """Whether a metric can be had from stored maps.

    Raises:
        Refusal: where it cannot, and was named.
    """
    if not METRICS[metric.name].remaps:
        return True
    if metric.explicit:
        raise Refusal(f"metric {metric.alias!r} asks its method for new maps; add --recompute, which computes the maps again")
    return False


def _refuse_another_version(checked: CheckedJob) -> None:
    """Every cell of the run must be one of the new plan, or the new run would not hold all of the old one."""
    planned = {cell.identity for cell in checked.cells}
    exact = {metric.alias for metric in checked.spec.metrics} - checked.spec.stored
    replaced = {entry["name"] for entry in checked.base.manifest["metrics"] if entry["stored"] and entry["name"] in exact}
    for cell in checked.base.manifest["cells"]:
        if cell["identity"] not in planned and cell["metric"] not in replaced:
            what = " ".join(filter(None, [cell["table"], cell["metric"], cell["method"], cell["target"]]))
            raise Refusal(
                f"run {checked.base.run_id} holds {what} as another version, other weights or other classes computed it; "
                "run jobs.explain again, then jobs.score"
            )


def unexplained_tasks(work: RunState) -> list[dict]:
    """The failures of the tasks that the run to be scored never explained as a whole; none where no run is scored.

    Raises:
        Refusal: where a shard is not what the run has seen, or files it was made of are missing or damaged.
    """
    checked = work.checked
    if not checked.base:
        return []
    now = {shard.name: index.identity for shard, index in work.indexes.items()}
    for shard in checked.base.manifest["shards"]:
        if shard["images"] and now.get(shard["name"]) != shard["identity"]:
            raise Refusal(
                f"shard {shard['name']} is not what run {checked.base.run_id} has seen; run jobs.explain again, or name the old files with --source"
            )
    content = storage.read_bytes(storage.join(checked.base.out, "runs", checked.base.run_id, "receipts.parquet"))
    held = {cell for receipt in receipts.unpack(content) for cell in receipt.cells}
    left_out = [task for task in work.tasks if not work.holds(task)]
    lost = sum(all(task.cell(cell.identity) in held for cell in checked.base_outputs) for task in left_out)
    if lost:
        raise Refusal(
            f"files of {lost} tasks that run {checked.base.run_id} was made of are missing or damaged; "
            "run jobs.explain again, which mends them, then jobs.score"
        )
    error = ShardError("NotExplained", "not all of it was explained; run jobs.explain again")
    return [task.failure(error, "read") for task in left_out]


def with_maps(task: Task, wanted: Sequence[Output], work: RunState) -> Task:
    """The task, told where the maps lie that its missing cells are scored on as they are stored."""
    asked = {(wanted[i].method, wanted[i].target) for i in task.missing if wanted[i].stored}
    places = []
    for map in (cell for cell in wanted if asked and cell.table == "maps" and (cell.method, cell.target) in asked):
        cell = task.cell(map.identity)
        receipt = work.answer(task, cell)
        if receipt and receipt.cells[cell].rows:
            places.append((receipt.files["maps"], receipt.cells[cell].group))
    return replace(task, maps=tuple(places)) if places else task
