"""The main job: shards in, a published run of maps, predictions and features out.

python -m jobs.explain --source 's3://b/val/{00000..00049}.tar' --backbone timm/resnet50 --methods family:cam --out s3://b/atlas
"""

import sys
from collections.abc import Mapping
from typing import Any

from cluster.connect import executor_for
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.addition import check_addition
from pipeline.plan.census import Accept
from pipeline.plan.check import CheckedJob, check_job
from pipeline.plan.dropped import in_words
from pipeline.reduce.analyses import ANALYSES
from pipeline.reduce.publish_run import PublishResult
from pipeline.refusal import counted
from pipeline.run.execute import execute
from pipeline.run.exit_codes import CODES, exit_code_of
from pipeline.spec import plugins
from pipeline.spec.command_line import command_line
from pipeline.spec.grammar import describe_registry
from pipeline.spec.job import Job
from pipeline.tables.errors import failures_in_words
from pipeline.targets import TARGETS

REGISTRIES = {"Methods": METHODS, "Targets": TARGETS, "Metrics": METRICS, "Analyses": ANALYSES}


def epilogue_of(registries: Mapping[str, Mapping[str, Any]]) -> str:
    """The end of `--help`: every entry of some registries with its settings, those of installed plugins too."""
    plugins.load(())
    return "\n\n".join([*(f"{name}\n\n{describe_registry(registry)}" for name, registry in registries.items()), CODES])


def run(job: Job) -> PublishResult | None:
    """Carry out a job on the Ray it finds, or in this process where it asks for no workers."""
    return carry_out(check_addition(job) if job.add else check_job(job))


def carry_out(checked: CheckedJob, accept: Accept | None = None) -> PublishResult | None:
    """Carry out a job that has been checked; `accept` may refuse its labels before any image is explained."""
    with executor_for(checked.job.workers, checked.job.device) as executor:
        return execute(checked, executor, accept)


def main(arguments: list[str] | None = None) -> int:
    """Run the job a command line describes; returns the exit code."""
    return exit_code_of(lambda: report(run(command_line(Job, "jobs.explain", arguments, epilogue_of(REGISTRIES)))))


def report(result: PublishResult | None) -> int:
    """Print the last line of the log; returns the exit code."""
    if result is None:
        return 0
    counts, verb = result.counts, "published" if result.new else "nothing new: still"
    by = " by every method" if any("method" in failure for failure in result.failures) else ""
    parts = [
        f"{verb} run {result.run_id}: {counts['explained']} of {counted(counts['images'], 'images')} explained{by}, {counts['failed']} failed, "
        f"{counts['shards_failed']} of {counted(counts['shards'], 'shards')} with problems, {counted(counts['errors'], 'errors')}",
        failures_in_words(result.failures),
        f"it no longer holds {in_words(result.dropped)}" if result.dropped else "",
    ]
    print("; ".join(filter(None, parts)))
    return 0 if result.complete else 3


if __name__ == "__main__":
    sys.exit(main())
