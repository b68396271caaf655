"""The progress of a job: counted in one place, which feeds the screen, the status file and the events."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from pipeline.monitor.events import EventFile
from pipeline.monitor.status import StatusFile
from pipeline.progress import SCREEN, Progress
from pipeline.refusal import one_line

log = logging.getLogger(__name__)
EVERY = 10.0  # seconds between two versions of the files
Log = Literal["text", "json"]


class Monitor:
    """Counts the work of one job, and writes the counts to the screen and to files.

    The screen gets readable lines or, where `log` is json, the events. The files are written where the job has an `out`; a store that
    refuses them stops no job.
    """

    def __init__(self, log: Log = "text", out: str | None = None, name: str = ""):
        self.log = log
        self.status = StatusFile(out, name) if out else None
        self.events = EventFile(out, name) if out else None
        self.numbers: dict = {}
        self.progress = Progress("", 0, "")
        self.costs: Counter[tuple[str, str]] = Counter()  # by payer and kind, as in `engine.costs`
        self.write_time = 0.0
        self.write_failed = False

    @contextmanager
    def stage(self, name: str, total: int, unit: str, **numbers) -> Iterator[Progress]:
        """One stage of the job, named by a verb; `add` counts its units. Its line stays on the screen."""
        self.progress = progress = Progress(name, total, unit)
        self.numbers |= {"state": f"{name}ing", **numbers, **progress.numbers}
        self.record("stage_begun", stage=name)
        self._write()
        if self.log == "text":
            SCREEN.begin(progress.line)
        try:
            yield progress
        except BaseException:
            self.show(progress.line)
            raise
        self.numbers |= progress.numbers
        self.record("stage_ended", stage=name, seconds=round(progress.seconds, 3))
        self.show(progress.summary)

    def add(self, done: int = 1, failed: int = 0) -> None:
        """Count finished units of the stage, and failed ones among them."""
        self._count(done, failed)
        self._advance()

    def task(self, images: int, failed: int, event: Literal["task_done", "task_failed"], details: Mapping) -> None:
        """Count a task and its images, and record it as an event."""
        self.numbers["tasks_done"] += 1
        self._count(images, failed)
        self.record(event, **details)
        self._advance()

    def _count(self, done: int, failed: int) -> None:
        self.progress.add(done, failed)
        self.numbers |= self.progress.numbers

    def _advance(self) -> None:
        if self.log == "text":
            SCREEN.progress(self.progress.line)
        if time.monotonic() - self.write_time >= EVERY:
            self._write()

    def record(self, event: str, **details) -> None:
        """Record an event."""
        entry = {"event": event, "time": datetime.now(UTC).isoformat(), **details, "progress": dict(self.numbers)}
        if self.events:
            self.events.add(entry)
        if self.log == "json":
            SCREEN.raw(json.dumps(entry, sort_keys=True))

    def show(self, *lines: str) -> None:
        """Show lines to whoever reads the screen; a program reads the events instead."""
        for line in lines if self.log == "text" else ():
            SCREEN.line(line)

    def end(self, state: Literal["finished", "failed"], table: Sequence[str] = (), **numbers) -> None:
        """Record how the job ended; `table` is shown."""
        self.numbers |= {"state": state, **numbers}
        costs: dict[str, dict] = {}
        for (payer, kind), amount in sorted(self.costs.items()):
            costs.setdefault(payer, {})[kind] = round(amount, 3)
        self.record("end", passes=costs)
        self._write()
        self.show(*table)

    def _write(self) -> None:
        self.write_time = time.monotonic()
        if not (self.status and self.events):
            return
        try:
            self.events.write()
            self.status.update(self.numbers)
        except Exception as error:
            if not self.write_failed:  # once is enough
                log.warning("the status and the events of the job cannot be written: %s", one_line(error))
            self.write_failed = True
