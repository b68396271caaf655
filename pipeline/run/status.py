"""What a job tells while it runs: a line of JSON a task in the log, and one small object that `jobs.status` reads.

<out>/jobs/<name>.json     replaced every few seconds at most, by the driver alone
"""

import json
import logging
import time
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from pipeline import storage
from pipeline.progress import Progress
from pipeline.refusal import one_line
from pipeline.tables import files

log = logging.getLogger(__name__)
EVERY = 10.0  # seconds
SILENT = 900.0  # a job that has said nothing for so long has probably died


@dataclass
class Watch:
    """The progress object of one job."""

    out: str
    name: str
    started: float = field(default_factory=time.time)
    told: float = 0.0
    facts: dict = field(default_factory=dict)

    def tell(self, now: bool = False, **facts) -> None:
        """Add facts, and write them down if the last time is a while ago or `now`. A store that refuses them stops no job."""
        self.facts |= facts
        moment = time.time()
        if not now and moment - self.told < EVERY:
            return
        self.told = moment
        content = {"name": self.name, "started": self.started, "updated": moment, **self.facts}
        try:
            files.write_json(place(self.out, self.name), content)
        except Exception as error:
            log.warning("the progress of the job cannot be written: %s", one_line(error))

    def task(self, progress: Progress, tasks: int, facts: dict) -> None:
        """One task is done, or has failed."""
        log.info("%s", json.dumps({"event": "task", **facts}, sort_keys=True))
        self.facts["tasks_done"] = self.facts.get("tasks_done", 0) + 1
        rate = progress.done / max(progress.seconds, 1e-9)
        self.tell(
            state="explaining",
            tasks=tasks,
            images_done=progress.done,
            images=progress.total,
            failed=progress.errors,
            images_per_second=round(rate, 3),
            seconds_left=round((progress.total - progress.done) / rate) if rate else None,
        )


def place(out: str, name: str) -> str:
    return storage.join(out, "jobs", f"{quote(name, safe='')}.json")


def read(out: str, name: str) -> dict | None:
    """What the last job of this name told last; None where there was none."""
    try:
        return json.loads(storage.read_bytes(place(out, name)))
    except FileNotFoundError:
        return None


def names(out: str) -> list[str]:
    """The names jobs have run under."""
    return sorted(unquote(path.removesuffix(".json")) for path in files.below(storage.join(out, "jobs")) if path.endswith(".json"))
