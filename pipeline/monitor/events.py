"""The events of a job, one JSON object a line, for a program to read.

<out>/jobs/<name>.events.jsonl       the newest events of the jobs of that name, at most `LIMIT` bytes
<out>/jobs/<name>.events.1.jsonl     those before them, at most `LIMIT` bytes; what is older is gone

Object stores cannot append. So the driver keeps the newest lines in memory and replaces the whole object every few seconds; what it had
not yet written when it was killed is lost. A job goes on behind the lines of the last one of its name. Of two jobs that run under one name
at a time, the file has the events of the one that wrote last.

Every event has `event`, `time` (ISO 8601, UTC) and `progress`, the numbers of the status file at that moment. `stage_begun` and
`stage_ended` name their `stage`, the latter with its `seconds`; `planned` counts the work; `dropped` says what the run published last holds
and this one will not; `task_done` has the facts of the task's receipt, among them `failures`, by output how many images a method or
metric failed on and its first error; `task_failed` has the reason; `end` has the counts, or the reason why the job broke off, and the passes that it cost.
"""

import json

from pipeline import storage
from pipeline.monitor.status import url_of
from pipeline.tables import files

LIMIT = 4 << 20  # bytes


class EventFile:
    """The event files of the jobs of one name."""

    def __init__(self, out: str, name: str):
        self.url, self.older_url = (url_of(out, name, kind) for kind in ("events.jsonl", "events.1.jsonl"))
        self.lines: list[bytes] = []
        self.size = 0
        self.older: bytes | None = None  # lines that are yet to be written to the second file
        self.is_read = False

    def add(self, event: dict) -> None:
        """Take up an event; `write` makes it last."""
        self._append(json.dumps(event, sort_keys=True).encode() + b"\n")

    def write(self) -> None:
        """Replace the files that have changed. An error of the store is raised as it is, and nothing is lost by trying again."""
        if not self.is_read:
            self._prepend_earlier()
        if self.older is not None:
            files.write_bytes(self.older_url, self.older)
            self.older = None
        files.write_bytes(self.url, b"".join(self.lines))

    def _append(self, line: bytes) -> None:
        if self.lines and self.size + len(line) > LIMIT:
            self.older, self.lines, self.size = b"".join(self.lines), [], 0
        self.lines.append(line)
        self.size += len(line)

    def _prepend_earlier(self) -> None:
        """Put the events of earlier jobs in front of those at hand."""
        try:
            earlier = storage.read_bytes(self.url).splitlines(keepends=True)
        except FileNotFoundError:
            earlier = []
        later, self.lines, self.size = self.lines, [], 0
        for line in (*earlier, *later):
            self._append(line)
        self.is_read = True
