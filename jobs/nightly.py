"""The nightly job: plan, explain, compare with the run before, report, clean up; safe to start twice and after any kill.

python -m jobs.nightly --config night.toml
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from urllib.parse import quote

import pyarrow as pa

from jobs import compare, explain, plan
from pipeline import storage, tables
from pipeline.compare.verdict import Limit
from pipeline.estimate.estimate import HOUR
from pipeline.refusal import Count, Positive, Refusal, one_line
from pipeline.report.job import Report
from pipeline.report.write import write
from pipeline.run.exit_codes import OutOfTime, exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.spec.job import Job
from pipeline.tables import files, schema
from pipeline.tables.gc import collect_garbage
from pipeline.tables.publish import Overtaken, TooManyFailed
from pipeline.tables.read import Run
from pipeline.tables.receipts import Damaged, parquet_bytes

INCOMPLETE = 3
CODES = "exit codes: 0 published or nothing new, 1 broken off, 2 refused, 3 not published or out of time, 4 beyond a limit of --bad."
GC_AGE = 86400.0


@dataclass(frozen=True, kw_only=True)
class Nightly(Job):
    """The nightly job: plan within a budget, explain what is missing, compare with the run before, report, clean up.

    Takes every flag of jobs.explain, best as fields of --config FILE; metrics, --analyses and --delta make it score, reduce and commit. It may be
    started twice and at any time: what is done stays done. Each night is a row of the table `nights`, in OUT/nights.
    """

    budget_hours: Positive | None = None
    """Hours of one worker that what is missing may take; beyond it nothing begins. Without it nothing is planned."""
    deadline_hours: Positive | None = None
    """Hours after which no further task is waited for; the next night goes on from the finished ones."""
    bad: tuple[str, ...] = ()
    """Limits as for jobs.compare: spearman<0.9, flips>0.01, failed_images>0; the exit code is 4 beyond one of them."""
    report: bool = True
    """Write a report of each new run."""
    keep: Count = 7
    """How many runs stay, as for jobs.gc; files younger than a day stay as well."""
    message: str | None = None
    """File or URL of the night's message in Markdown, for a chat; it is printed, too."""
    webhook: str | None = None
    """File or URL of the same facts as JSON, for a script that sends them on."""

    @property
    def job(self) -> Job:
        """The explain job of the night."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(Job)}
        return Job(**values | ({"stop_after": self.deadline_hours * HOUR} if self.deadline_hours else {}))


@dataclass
class Night:
    """What a night has come to: a row of `nights`."""

    name: str
    started: str
    run_id: str | None = None
    before: str | None = None
    new: bool = False
    images: int | None = None
    explained: int | None = None
    failed: int | None = None
    errors: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    planned_hours: float | None = None
    verdict: str | None = None
    compared: bool = False
    bad: list[str] = field(default_factory=list)
    report: str | None = None
    ending: str = "broken off"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the seconds of a step."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 3)

    def message(self) -> str:
        """The night in Markdown."""
        lines = [f"**{self.name}**, night of {self.started[:16]}: {self.ending}"]
        if self.run_id:
            lines.append(
                f"- {'new run' if self.new else 'still run'} `{self.run_id}`: {self.explained} of {self.images} images explained, {self.failed} failed"
            )
        if self.verdict:
            lines.append(f"- {self.verdict}")
        if self.planned_hours is not None:
            lines.append(f"- planned: {self.planned_hours:.3g} hours of one worker")
        if self.report:
            lines.append(f"- report: {self.report}/index.html")
        lines.append("- " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items()))
        return "\n".join(lines)


def carry_out(nightly: Nightly, night: Night) -> int:
    """Carry out the steps of a night, filling its row; returns the exit code. A step that an earlier start has finished is not done again."""
    for text in nightly.bad:
        Limit.parse(text)  # a wrong one is refused before the night's work, not after it
    if nightly.budget_hours:
        with night.step("plan"):
            _within_budget(nightly, night)
    with night.step("explain"):
        result = explain.run(nightly.job)
    if result is None:
        night.ending = "dry"
        return 0
    run = tables.open(nightly.out, run_id=result.run_id)
    counts = {name: result.counts[name] for name in ("images", "explained", "failed", "errors")}
    night.run_id, night.before, night.new = run.run_id, run.manifest.get("previous"), result.new
    vars(night).update(counts)
    if night.before:
        with night.step("compare"):
            _compare(nightly, night)
    if nightly.report:
        with night.step("report"):
            night.report = _report(nightly, run, night.before if night.compared else None)
    with night.step("gc"):
        collect_garbage(nightly.out, nightly.keep, min_age=GC_AGE, delete=True)
    night.ending = "bad" if night.bad else "published" if night.new else "nothing new"
    return compare.BAD if night.bad else 0


def _within_budget(nightly: Nightly, night: Night) -> None:
    """Plan the night.

    Raises:
        Refusal: where it would take more than its budget.
    """
    estimate = plan.estimate(plan.Plan(**vars(nightly.job)))
    night.planned_hours = (estimate.read_seconds + estimate.explain_seconds + estimate.land_seconds) / HOUR
    if nightly.budget_hours and night.planned_hours > nightly.budget_hours:
        raise Refusal(
            f"what is missing would take {night.planned_hours:.3g} hours of one worker, and budget_hours is {nightly.budget_hours:g}: nothing "
            "has begun; atlas plan says which methods are dear"
        )


def _compare(nightly: Nightly, night: Night) -> None:
    """The verdict on the published run beside the one before it, which earlier nights may have swept away."""
    try:
        job = compare.Compare(out=nightly.out, now=str(night.run_id), before=str(night.before), bad=nightly.bad)
        comparison = compare.compare(job)
        night.verdict, night.bad = comparison.verdict, comparison.bad
        night.compared = True
    except Refusal as refusal:
        if night.new:
            raise
        night.verdict = f"not compared: {refusal}"


def _report(nightly: Nightly, run: Run, against: str | None) -> str:
    """The URL of the run's report, which is written where there is none."""
    url = storage.join(nightly.out, "reports", run.run_id)
    if "index.html" not in files.below(url):
        write(Report(out=nightly.out, name=nightly.name, run=run.run_id, against=against))
    return url


def run_night(nightly: Nightly) -> int:
    """Carry out a night, and write its row and messages however it ends; returns the exit code."""
    started = datetime.now(UTC)
    night = Night(nightly.name, started.isoformat(timespec="seconds"))
    try:
        return carry_out(nightly, night)
    except (OutOfTime, Overtaken, TooManyFailed) as unfinished:
        night.ending = f"not published: {one_line(unfinished)}"
        return INCOMPLETE
    except (Refusal, Damaged, OSError) as error:
        night.ending = f"{type(error).__name__}: {one_line(error)}"
        raise
    finally:
        if not nightly.dry:
            _tell(nightly, night, started)


def _tell(nightly: Nightly, night: Night, started: datetime) -> None:
    """Write the night's row, print its message, and write that and the facts where they are asked for."""
    row = pa.Table.from_pylist([vars(night) | {"seconds": [*night.seconds.items()]}], schema.NIGHTS)
    path = storage.join(nightly.out, "nights", quote(nightly.name, safe=""), f"{started:%Y%m%dT%H%M%S%f}Z.parquet")
    files.write_bytes(path, parquet_bytes([row]))
    print(night.message())
    if nightly.message:
        files.write_bytes(nightly.message, night.message().encode() + b"\n")
    if nightly.webhook:
        files.write_bytes(nightly.webhook, json.dumps(vars(night) | {"text": night.message()}, indent=1).encode())


def main(arguments: list[str] | None = None) -> int:
    """Carry out the night of a command line; returns the exit code."""
    return exit_code_of(lambda: run_night(command_line(Nightly, "jobs.nightly", arguments, CODES)))


if __name__ == "__main__":
    sys.exit(main())
