"""Print the progress of jobs: counts, rate, time left, failures so far, and the run published last.

python -m jobs.status --out s3://b/atlas
python -m jobs.status --out s3://b/atlas --run last        # what that run took, and what went wrong
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import tables
from pipeline.monitor import status
from pipeline.progress import clock
from pipeline.refusal import Refusal, choose, counted
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.tables import publish
from pipeline.tables.errors import failures_in_words

ERRORS = """
SELECT stage, error, regexp_replace(message, '[0-9]+', 'N', 'g') AS kind, any_value(message) AS message, count(*) AS n,
    any_value(coalesce(image_id, shard)) AS example
FROM errors GROUP BY stage, error, kind ORDER BY n DESC, stage, error, kind LIMIT 20
"""
UNITS = {"listing": "shards", "publishing": "groups"}  # what a stage counts, where it does not count images


@dataclass(frozen=True, kw_only=True)
class Status:
    """Print the progress of the jobs below a folder, running or finished."""

    out: str
    """Where tables go: the --out of the jobs."""
    name: str | None = None
    """One --name only."""
    run: str | None = None
    """Tell of one run instead, by its id, its name, or `last` for the last finished of --name, published or not: its steps with seconds, passes and
    seconds of every method and metric, errors with an example, and what the run before held beyond it."""


def lines(out: str, name: str | None = None) -> list[str]:
    """The lines about each name: one about its last job, one about its published run.

    Raises:
        Refusal: where no job has ever run, or none of that name.
    """
    published = publish.current(out)
    names = sorted({*status.names(out), *published})
    if not names:
        raise Refusal(f"no job has run below {out} yet; check --out")
    text_lines = []
    for job_name in [choose(name, names, "name")] if name else names:
        text_lines.append(f"{job_name}: {_describe_job(status.read(out, job_name))}")
        text_lines.append(f"{job_name}: {_describe_run(out, published.get(job_name))}")
    return text_lines


def _describe_job(facts: dict | None) -> str:
    if not facts:
        return "no job has told anything"
    ago, state = time.time() - facts["updated"], facts.get("state", "listing")
    unit = UNITS.get(state, "images")
    if state == "finished":
        return f"the last job finished {clock(ago)} ago, in {clock(facts['updated'] - facts['started'])}"
    if state == "failed":
        return f"the last job broke off {clock(ago)} ago: {facts['reason']}"
    if ago > status.SILENT:
        state = f"silent for {clock(ago)}, perhaps dead; it was {state}"
    done = f"{facts.get(f'{unit}_done', 0)}/{counted(facts.get(unit, 0), unit)}"
    if unit == "images":
        done += f", {facts.get('tasks_done', 0)}/{counted(facts.get('tasks', 0), 'tasks')}"
    rate, seconds, failed = (facts.get(name) for name in (f"{unit}_per_second", "seconds_left", f"{unit}_failed"))
    speed, remainder = f", {rate:.1f}/s" if rate else "", "" if seconds is None else f", {clock(seconds)} left"
    return f"{state}, {done}{speed}{remainder}, {failed or 0} failed so far"


def _describe_run(out: str, run: str | None) -> str:
    if not run:
        return "nothing is published"
    facts = publish.read_manifest(out, run)
    counts = facts["counts"]
    failures = failures_in_words(facts.get("failures", ()))
    explained = f"{counts['explained']} of {counted(counts['images'], 'images')} explained, {counts['failed']} failed"
    return f"published is {run} of {facts['finished'][:19]}: {explained}{failures and f'; {failures}'}"


def lines_about(run: tables.Run) -> Iterator[str]:
    """The lines about one run: its images, the seconds of its steps, passes by method and metric, errors, and what it no longer holds."""
    from pipeline.engine import costs  # these two load torch, which the progress of jobs does without
    from pipeline.plan.dropped import in_words

    facts, counts = run.manifest, run.manifest["counts"]
    yield f"{run.run_id} of {facts['finished'][:19]}: {counts['explained']} of {counted(counts['images'], 'images')} explained"
    spent = facts["spent"]
    steps = ", ".join(f"{name.removesuffix('_seconds')} {clock(spent[name])}" for name in sorted(spent) if name.endswith("_seconds"))
    yield f"from start to end {clock(facts['seconds'])}; of it: {steps}"
    yield from costs.table(
        Counter({(payer, kind): cost[kind] for payer, cost in facts["passes"].items() for kind in cost if kind != "per_image"})
    )
    for error in run.sql(ERRORS).to_pylist() if "errors" in run.tables else ():
        yield f"{counted(error['n'], 'errors')}: {error['stage']}: {error['error']}: {error['message']} (as {error['example']})"
    if failures := failures_in_words(facts.get("failures", ())):
        yield failures
    if facts.get("dropped"):
        yield f"the run before held {in_words(facts['dropped'])} beyond it"


def main(arguments: list[str] | None = None) -> int:
    """Run the job a command line describes; returns the exit code."""
    return exit_code_of(lambda: report(command_line(Status, "jobs.status", arguments)))


def report(job: Status) -> int:
    """Print the status; returns the exit code."""
    if job.run:
        run = tables.last(job.out, job.name or "default") if job.run == "last" else tables.find(job.out, job.run)
        print("\n".join(lines_about(run)))
        return 0
    print("\n".join(lines(job.out, job.name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
