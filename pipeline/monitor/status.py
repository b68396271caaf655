"""The status file of a job: one small object that `jobs.status` reads.

<out>/jobs/<name>.json     replaced every few seconds at most, by the driver alone
"""

import json
import time
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from pipeline import storage
from pipeline.tables import files

SILENT = 900.0  # seconds; a job that has written nothing for so long has probably died


@dataclass
class StatusFile:
    """The status file of the jobs of one name."""

    out: str
    name: str
    started: float = field(default_factory=time.time)

    def update(self, numbers: dict) -> None:
        """Replace the file. An error of the store is raised as it is."""
        content = {"name": self.name, "started": self.started, "updated": time.time(), **numbers}
        files.write_json(url_of(self.out, self.name), content)


def url_of(out: str, name: str, kind: str = "json") -> str:
    """The URL of one of a job's own files; a name is no path."""
    return storage.join(out, "jobs", f"{quote(name, safe='')}.{kind}")


def read(out: str, name: str) -> dict | None:
    """Read the last state that a job of this name wrote; None where there was none."""
    try:
        return json.loads(storage.read_bytes(url_of(out, name)))
    except FileNotFoundError:
        return None


def names(out: str) -> list[str]:
    """The names under which jobs have run."""
    return sorted(unquote(path.removesuffix(".json")) for path in files.below(storage.join(out, "jobs")) if path.endswith(".json"))
