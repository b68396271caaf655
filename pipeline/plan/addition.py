"""A job that adds to the run published under its name: beside its own methods, targets and metrics stand those that the run has."""

from dataclasses import replace

from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.check import CheckedJob, check_job
from pipeline.plan.rescore import choice_of, job_of, with_analyses_of
from pipeline.spec.grammar import parse_all
from pipeline.spec.job import Job
from pipeline.spec.plugins import load
from pipeline.tables import publish
from pipeline.targets import TARGETS


def check_addition(job: Job) -> CheckedJob:
    """The job with all that the published run has beside it, checked; where nothing is published yet, the job as it is.

    Of two methods, targets or metrics of one name the job's own counts. Metrics that were scored from stored maps stay so.

    Raises:
        Refusal: as `check_job`.
    """
    run_id = publish.current(job.out).get(job.name)
    if run_id is None:
        return check_job(job)
    manifest = publish.read_manifest(job.out, run_id)
    before = job_of(manifest)
    job = replace(
        job,
        plugins=tuple(dict.fromkeys([*before.plugins, *job.plugins])),
        class_sets=job.class_sets or before.class_sets,
        is_a=job.is_a or before.is_a,
        weight_similarity=job.weight_similarity or before.weight_similarity,
    )
    job = with_analyses_of(replace(job, analyses=before.analyses, analysis_args=before.analysis_args), job.analyses, job.analysis_args)
    load(job.plugins)  # before names are looked up: some may be theirs
    targets = {
        choice.alias: choice.written for one in (before, job) for choice in parse_all(one.targets, TARGETS, "target", one.target_args)
    }
    job = replace(job, targets=tuple(targets.values()), target_args=())
    methods = [replace(choice_of(entry, METHODS, "method"), explicit=False) for entry in manifest["methods"]]
    exact, stored = (
        [replace(choice_of(entry, METRICS, "metric"), explicit=False) for entry in manifest["metrics"] if entry["stored"] is of_stored]
        for of_stored in (False, True)
    )
    own = {choice.alias for choice in parse_all(job.metrics, METRICS, "metric", job.metric_args)}
    return check_job(job, [choice for choice in stored if choice.alias not in own], (methods, exact))
