"""Say what a job would cost before it runs: passes, hours, bytes, requests, memory, money.

python -m jobs.plan --source 's3://b/val/{00000..00049}.tar' --backbone timm/resnet50 --methods rise opti_cam --out s3://b/atlas
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.connect import executor_for
from jobs.explain import REGISTRIES, epilogue_of
from pipeline.engine import costs
from pipeline.estimate.estimate import Estimate, estimate_of, parts_of, table
from pipeline.estimate.prices import Prices
from pipeline.estimate.trial import Rehearsed, peak_bytes
from pipeline.monitor.monitor import Monitor
from pipeline.plan.addition import check_addition
from pipeline.plan.check import check_job
from pipeline.progress import clock
from pipeline.refusal import Count, Positive, counted
from pipeline.run.execute import open_tasks_of, state_of
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.spec.job import Job

STARTED = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Plan(Job):
    """Say what a job would cost before it runs. Takes every flag of jobs.explain: plan the line, then run it.

    A few of the dataset's own images are read, explained and landed in this process. Of each long loop (8,000 masks, 100 steps) the first
    passes alone are made; the others are counted, and taken to cost as much. What a published run or finished tasks hold already costs
    nothing. Methods that may stop early are counted to their last step.
    """

    trial_seconds: Positive = 10.0
    """How long a trial of images with the same outputs missing may take, about."""
    for_workers: tuple[Count, ...] = (1, 8, 64)
    """Numbers of workers to tell the time for."""
    prices: str | None = None
    """A TOML file with currency, worker_hour, gb_month, gb_read, reads, writes (of 1,000 requests); without it no money is told."""


def estimate(plan: Plan) -> Estimate:
    """Try out the missing part of a job, and estimate the whole of it."""
    checked = check_addition(plan) if plan.add else check_job(plan)
    with executor_for(0, plan.device) as executor:
        state = state_of(checked, executor, Monitor(plan.log), time.time())
        stages = Rehearsed(checked, "cuda" if executor.gpus else "cpu", None if executor.gpus else 1)
        start_seconds = time.monotonic() - STARTED
        parts = parts_of(open_tasks_of(state), lambda task: stages.trial(task, plan.trial_seconds))
    return estimate_of(parts, start_seconds, peak_bytes())


def lines(result: Estimate, plan: Plan, prices: Prices | None) -> Iterator[str]:
    """The estimate in words."""
    if not result.images and not result.failures:
        yield "nothing is missing: the job would publish what it published last"
        return
    yield from costs.in_columns(table(result))
    yield f"{counted(result.images, 'images')} in {counted(result.tasks, 'tasks')}, the dearest of {clock(result.longest_task)}"
    seconds = result.read_seconds, result.explain_seconds, result.land_seconds
    yield "work of one worker: {} to read, {} to explain and score, {} to land".format(*map(clock, seconds))
    yield "time: " + ", ".join(f"{clock(result.wall_seconds(n))} on {counted(n, 'workers')}" for n in plan.for_workers)
    yield (
        f"storage: {result.bytes_read:,} bytes read, {result.bytes_written:,} written in {result.objects:,} objects; "
        f"{result.reads:,} requests to read and {result.writes:,} to write"
    )
    yield f"memory of a worker: {result.peak_bytes / 2**30:.1f} GiB"
    if result.longest_task > plan.task_timeout:
        images = max(1, int(plan.task_images * plan.task_timeout / result.longest_task / 2))
        yield f"a task takes longer than --task-timeout {plan.task_timeout:g} allows: --task-images {images} makes them small enough"
    if prices:
        money = result.money(prices)
        parts = ", ".join(f"{amount:,.2f} for {what}" for what, amount in money.items())
        yield f"price: {sum(money.values()):,.2f} {prices.currency}".rstrip() + f" ({parts})"
    for failure in result.failures:
        yield f"not in these numbers: {failure}"


def main(arguments: list[str] | None = None) -> int:
    """Plan the job of a command line; returns the exit code."""
    return exit_code_of(lambda: report(command_line(Plan, "jobs.plan", arguments, epilogue_of(REGISTRIES))))


def report(plan: Plan) -> int:
    """Print the estimate; returns the exit code."""
    prices = Prices.read(plan.prices) if plan.prices else None
    print("\n".join(lines(estimate(plan), plan, prices)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
