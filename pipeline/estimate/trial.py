"""A trial: a few of a job's own images are read, explained as a rehearsal and landed, and every step is timed."""

import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.engine import costs
from pipeline.engine.rehearsal import Rehearsal
from pipeline.plan.check import CheckedJob
from pipeline.plan.task import Task
from pipeline.stages.explain import Explain
from pipeline.stages.land import Land
from pipeline.stages.messages import ExplainMessage, ReadMessage, TaskResult
from pipeline.stages.read import Read
from pipeline.stages.score import ScoreStored
from pipeline.tables import receipts

MOST_IMAGES = 16  # more images of a batch make no pass much cheaper on a CPU


@dataclass(frozen=True)
class Trial:
    """What the images of one task cost: seconds of each step, passes and seconds by payer for all of them, bytes read and written.

    `facts` are `passes` and `payer_seconds` as a receipt has them; `files` is how many the task landed.
    """

    images: int
    read_seconds: float = 0.0
    explain_seconds: float = 0.0
    land_seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0
    files: int = 0
    facts: Mapping = field(default_factory=dict)
    failure: str = ""


class Rehearsed:
    """The stages of a job in this process, for trials; `load_seconds` is what loading the network took."""

    def __init__(self, checked: CheckedJob, device: str, threads: int | None):
        stage: type[Explain] = ScoreStored if checked.spec.stored else Explain
        batch_size = None if checked.job.batch_size == "auto" else int(checked.job.batch_size)
        began = time.monotonic()
        self.explain = stage.load(checked.network, checked.spec, checked.classes.names, device, batch_size, threads)
        self.load_seconds, self.read = time.monotonic() - began, Read.of(checked)

    def trial(self, task: Task, seconds: float) -> Trial:
        """Try a task out on as many of its images as take about so many seconds. The first image alone warms everything up."""
        first = self._try(task, 1)
        if first.failure or task.count == 1:
            return first
        began = time.monotonic()
        one = self._try(task, 1)
        spent = time.monotonic() - began
        images = min(task.count, MOST_IMAGES, int(seconds / max(spent, 1e-9)))
        return self._try(task, images) if images > 1 else one

    def _try(self, task: Task, images: int) -> Trial:
        positions = task.chosen[:images] or tuple(range(task.start, task.start + images))
        part = replace(task, chosen=positions, start=positions[0], stop=positions[-1] + 1)
        message = ReadMessage.from_row(self.read({"task": part.to_json()}))
        if message.failure or not len(message.images):
            return Trial(images, failure=(message.failure or {}).get("message", "none of the images could be decoded"))
        outputs, tally = [self.explain.outputs[i] for i in task.missing], Rehearsal()
        began = time.monotonic()
        tables = self.explain.tables(message, outputs, tally)
        seconds = time.monotonic() - began + tally.skipped
        results = [TaskResult(output.identity, output.table, rows, errors) for output, rows, errors in tables]
        count = len(message.images)
        facts = {"passes": costs.account_of(tally, {"look"}, count), "payer_seconds": costs.seconds_of(tally)}
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            landed = Land(folder)(ExplainMessage(part, results, facts).to_row())["receipt"]
            land_seconds = time.monotonic() - began
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            written = sum(path.stat().st_size for path in files)
        failure = receipts.failure(landed)
        return Trial(
            count,
            message.seconds,
            seconds,
            land_seconds,
            message.bytes_read,
            written,
            len(files),
            facts,
            failure["message"] if failure else "",
        )


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
