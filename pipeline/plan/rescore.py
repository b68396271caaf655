"""A published run as the job that adds to it: metrics, computed from its maps as they are stored, or analyses of its tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pipeline import storage
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.check import CheckedJob, check_job
from pipeline.plan.state import RunState
from pipeline.plan.task import Task
from pipeline.refusal import Refusal, counted
from pipeline.sources import ShardError
from pipeline.spec.explain_spec import with_ties
from pipeline.spec.grammar import Choice, parse, parse_all
from pipeline.spec.job import Job
from pipeline.spec.plugins import load
from pipeline.tables import Run, receipts

Metrics = tuple[Choice, ...]


def check_rescoring(run: Run, metrics: Sequence[str], metric_args: Sequence[str] = (), recompute: bool = False, **changes) -> CheckedJob:
    """The job of a published run with more metrics, checked.

    Parameters:
        recompute: compute the maps again and score them as `explain` would, before they are rounded.
        changes: fields of the job that are not as the run has them.

    Raises:
        Refusal: where a metric cannot be had from stored maps, or an output of the run would now be computed otherwise.
    """
    manifest, job = run.manifest, job_of(run.manifest)
    load(changes.get("plugins", job.plugins))  # before names are looked up: some may be theirs
    more = parse_all(metrics, METRICS, "metric", metric_args)
    if not more:
        raise Refusal("no metric is asked for; name some with --metrics, for example --metrics energy or family:faithfulness")
    return _check_beside(run, job, *_metrics_beside(manifest["metrics"], more, recompute), changes)


def check_reduction(run: Run, analyses: Sequence[str], analysis_args: Sequence[str] = (), **changes) -> CheckedJob:
    """The job of a published run with more analyses, checked. Settings given here are stronger than those that the run has.

    Raises:
        Refusal: where none is named, or an output of the run would now be computed otherwise.
    """
    if not analyses:
        raise Refusal("no analysis is asked for; name some with --analyses, for example --analyses agreement or all")
    job = with_analyses_of(job_of(run.manifest), analyses, analysis_args)
    load(changes.get("plugins", job.plugins))
    return _check_beside(run, job, *_metrics_beside(run.manifest["metrics"], (), False), changes)


def with_analyses_of(job: Job, analyses: Sequence[str], analysis_args: Sequence[str]) -> Job:
    """The job with more analyses and settings, which count where both say something of one."""
    names = dict.fromkeys([*(text for text in job.analyses if _name(text) not in map(_name, analyses)), *analyses])
    return replace(job, analyses=tuple(names), analysis_args=tuple(dict.fromkeys([*job.analysis_args, *analysis_args])))


def _name(text: str) -> str:
    return text.partition("(")[0]


def _check_beside(run: Run, job: Job, exact: Metrics, stored: Metrics, changes: Mapping[str, Any]) -> CheckedJob:
    """The job of a run with these metrics, and with fields that are not as the run has them, checked."""
    manifest = run.manifest
    job = replace(
        job,
        out=run.out,
        methods=tuple(choice_of(entry, METHODS, "method").written for entry in manifest["methods"]),
        metrics=tuple(metric.written for metric in exact),
        method_args=(),
        metric_args=(),
        **changes,
    )
    checked = check_job(job, stored)
    skipped = [*manifest["skipped"], *(entry for entry in checked.skipped if entry not in manifest["skipped"])]
    checked = replace(checked, base=run, skipped=[entry for entry in skipped if "analysis" not in entry])
    _refuse_another_version(checked, run)
    return checked


def _metrics_beside(entries: Sequence[Mapping], more: Metrics, recompute: bool) -> tuple[Metrics, Metrics]:
    """The metrics of exact maps and those of stored maps, once `more` are beside those that run.json has as `entries`."""
    exact, stored = (
        tuple(choice_of(entry, METRICS, "metric") for entry in entries if entry["stored"] is of_stored) for of_stored in (False, True)
    )
    more = more if recompute else tuple(metric for metric in more if _needs_no_new_map(metric))
    present = exact if recompute else exact + stored
    additions = tuple(metric for metric in with_ties(more, present) if _key_of(metric) not in map(_key_of, present))
    if recompute:
        return exact + additions, tuple(metric for metric in stored if _key_of(metric) not in map(_key_of, additions))
    return exact, stored + additions


def job_of(manifest: Mapping) -> Job:
    """The job that a run.json describes."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in manifest["job"].items()}
    return Job(**{field.name: values[field.name] for field in fields(Job) if field.name in values})


def choice_of(entry: Mapping, registry: Mapping, kind: str) -> Choice:
    """The method or metric that an entry of run.json describes."""
    settings = tuple(sorted((key, value) for key, value in entry.items() if key not in ("name", kind, "stored", "version")))
    return parse(Choice(entry["name"], entry[kind], None, settings).written, registry, kind)


def _key_of(metric: Choice) -> tuple:
    """The key that is the same for two requests for one metric."""
    return metric.alias, metric.name, metric.settings


def _needs_no_new_map(metric: Choice) -> bool:
    """Whether a metric can be had from stored maps.

    Raises:
        Refusal: where it cannot, and was named.
    """
    if not METRICS[metric.name].remaps:
        return True
    if metric.explicit:
        raise Refusal(f"metric {metric.alias!r} asks its method for new maps; add --recompute, which computes the maps again")
    return False


def _refuse_another_version(checked: CheckedJob, base: Run) -> None:
    """Every output of the run must be one of the new job, or the new run would not hold all of the old one."""
    planned = {output.identity for output in checked.outputs}
    exact = {metric.alias for metric in checked.spec.metrics} - checked.spec.stored
    replaced = {entry["name"] for entry in base.manifest["metrics"] if entry["stored"] and entry["name"] in exact}
    for output in base.manifest["cells"]:
        if output["identity"] not in planned and output["metric"] not in replaced:
            name = " ".join(filter(None, [output["table"], output["metric"], output["method"], output["target"]]))
            raise Refusal(
                f"run {base.run_id} holds {name} as another version, other weights or other classes computed it; "
                "run jobs.explain again, then jobs.score"
            )


def unexplained_tasks(state: RunState) -> list[dict]:
    """The failures of the tasks that the run to be scored never explained as a whole; none where no run is scored.

    Raises:
        Refusal: where a shard is not what the run has seen, or files it was made of are missing or damaged.
    """
    base = state.checked.base
    if not base:
        return []
    present = {(shard.name, index.identity) for shard, index in state.indexes.items()}  # the chunks of a folder share its name
    for shard in base.manifest["shards"]:
        if shard["images"] and (shard["name"], shard["identity"]) not in present:
            raise Refusal(
                f"shard {shard['name'] or 'of the folder'} is not what run {base.run_id} has seen; run jobs.explain again, or name the old files with --source"
            )
    content = storage.read_bytes(storage.join(base.out, "runs", base.run_id, "receipts.parquet"))
    published = {output for receipt in receipts.unpack(content) for output in receipt.cells}
    required = [state.checked.outputs[i].identity for i in sorted(state.required)]
    unexplained = state.unexplained
    lost_count = sum(all(task.output_identity(identity) in published for identity in required) for task in unexplained)
    if lost_count:
        raise Refusal(
            f"files of {counted(lost_count, 'tasks')} that run {base.run_id} was made of are missing or damaged; "
            "run jobs.explain again, which mends them, then jobs.score"
        )
    error = ShardError("NotExplained", "not all of it was explained; run jobs.explain again")
    return [task.failure(error, "read") for task in unexplained]


def with_stored_maps(task: Task, state: RunState) -> Task:
    """The task with the row groups of the maps that its missing outputs are computed from as they are stored."""
    outputs = state.checked.outputs
    scored = {(outputs[i].method, outputs[i].target) for i in task.missing if outputs[i].stored}

    def row_groups() -> Iterator[tuple[dict, int]]:
        for output in outputs if scored else ():
            identity = task.output_identity(output.identity)
            receipt = state.receipt(task, identity) if output.table == "maps" and (output.method, output.target) in scored else None
            if receipt and receipt.cells[identity].rows:
                yield receipt.files["maps"], receipt.cells[identity].group

    return replace(task, stored_maps=tuple(row_groups()))
