"""The price of a job before it runs: what trials of a few images cost, times the images with the same outputs missing."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.engine import costs
from pipeline.engine.batch import PASSES
from pipeline.estimate.prices import GB, Prices
from pipeline.estimate.trial import Trial
from pipeline.plan.task import Task

HOUR = 3600.0


@dataclass(frozen=True)
class Part:
    """The tasks in which the same outputs are missing: their number, their images, and a trial of one of them."""

    tasks: int
    images: int
    trial: Trial

    def of_all(self, amount: float) -> float:
        """An amount that the trial's images took, for all images."""
        return amount * self.images / self.trial.images


def parts_of(open_tasks: Sequence[Task], trial: Callable[[Task], Trial]) -> list[Part]:
    """The open tasks by their missing outputs, each kind with the trial of its middle one."""
    by_missing: dict[tuple[int, ...], list[Task]] = {}
    for task in open_tasks:
        by_missing.setdefault(task.missing, []).append(task)
    return [Part(len(tasks), sum(task.count for task in tasks), trial(tasks[len(tasks) // 2])) for tasks in by_missing.values()]


@dataclass(frozen=True)
class Estimate:
    """What the missing part of a job will cost.

    Attributes:
        images: images with something missing, in `tasks`.
        passes: rows through the network, by payer and kind, as a tally has them.
        read_seconds, explain_seconds, land_seconds: of one worker after the other.
        start_seconds: from the command to the first image, once.
        longest_task: seconds of the dearest task.
        bytes_read, bytes_written, objects, reads, writes: of storage; `reads` and `writes` are requests.
        peak_bytes: the most memory of a worker.
        failures: reasons why parts could not be tried; their images are in no number.
    """

    images: int
    tasks: int
    passes: Mapping[tuple[str, str], float]
    read_seconds: float
    explain_seconds: float
    land_seconds: float
    start_seconds: float
    longest_task: float
    bytes_read: int
    bytes_written: int
    objects: int
    reads: int
    writes: int
    peak_bytes: int
    failures: Sequence[str] = field(default_factory=tuple)

    def wall_seconds(self, workers: int) -> float:
        """Seconds from the command to the end of the last task on so many workers: the work shared out, never less than the dearest task."""
        work = self.read_seconds + self.explain_seconds + self.land_seconds
        return self.start_seconds + max(work / workers, self.longest_task if self.tasks else 0.0)

    def money(self, prices: Prices) -> dict[str, float]:
        """The price of the work, the requests, the reading, and a month of what is written."""
        hours = (self.read_seconds + self.explain_seconds + self.land_seconds) / HOUR
        return {
            "work": hours * prices.worker_hour,
            "requests": (self.reads * prices.reads + self.writes * prices.writes) / 1000,
            "reading": self.bytes_read / GB * prices.gb_read,
            "a month of storage": self.bytes_written / GB * prices.gb_month,
        }


def estimate_of(parts: Sequence[Part], start_seconds: float, peak_bytes: int) -> Estimate:
    """The price of all parts."""
    usable = [part for part in parts if not part.trial.failure]
    total = Counter[tuple[str, str]]()
    for part in usable:
        total.update({key: part.of_all(amount) for key, amount in costs.costs_of(part.trial.facts).items()})
    objects = sum(part.tasks * part.trial.files for part in usable)

    def seconds(name: str) -> float:
        return sum(part.of_all(getattr(part.trial, name)) for part in usable)

    per_task = [part.of_all(part.trial.read_seconds + part.trial.explain_seconds + part.trial.land_seconds) / part.tasks for part in usable]
    tasks = sum(part.tasks for part in usable)
    return Estimate(
        images=sum(part.images for part in usable),
        tasks=tasks,
        passes=total,
        read_seconds=seconds("read_seconds"),
        explain_seconds=seconds("explain_seconds"),
        land_seconds=seconds("land_seconds"),
        start_seconds=start_seconds,
        longest_task=max(per_task, default=0.0),
        bytes_read=round(seconds("bytes_read")),
        bytes_written=round(seconds("bytes_written")),
        objects=objects,
        reads=tasks + objects,  # a shard's range a task, and each file once when it is published
        writes=objects,
        peak_bytes=peak_bytes,
        failures=tuple(part.trial.failure for part in parts if part.trial.failure),
    )


def table(estimate: Estimate) -> list[tuple[str, ...]]:
    """Rows of a table, the dearest payers first: passes of an image, passes and hours in all, and the share of the time."""
    passes = estimate.passes
    payers = sorted({payer for payer, _ in passes}, key=lambda payer: (-passes.get((payer, costs.SECONDS), 0), payer))
    total = sum(passes.get((payer, costs.SECONDS), 0) for payer in payers) or 1.0
    rows = [("method", *(f"{kind} an image" for kind in PASSES[:2]), "forwards", "backwards", "hours", "share")]
    for payer in payers:
        counts = [passes.get((payer, kind), 0) for kind in PASSES[:2]]
        seconds = passes.get((payer, costs.SECONDS), 0)
        each = (f"{count / estimate.images:,.5g}" for count in counts)
        rows.append((payer, *each, *(f"{count:,.0f}" for count in counts), f"{seconds / HOUR:,.3g}", f"{seconds / total:.0%}"))
    return rows
