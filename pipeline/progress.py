"""Progress of one stage: a line that rewrites itself on a terminal, a line now and then in a plain log."""

import sys
import time


class Progress:
    """Counts things done out of a total; says the rate, the time left and the errors so far.

    Args:
        stage: what is being done, the first word of every line.
        total: how many there are.
        unit: what is counted, in the plural.
        every: seconds between lines of a plain log.
    """

    def __init__(self, stage: str, total: int, unit: str, every: float = 10.0, stream=None):
        self.stage, self.total, self.unit, self.every = stage, total, unit, every
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.done = self.errors = 0
        self.started = self.told = time.monotonic()

    def add(self, done: int = 1, errors: int = 0) -> None:
        self.done, self.errors = self.done + done, self.errors + errors
        now = time.monotonic()
        if self.live or self.done >= self.total or now - self.told >= self.every:
            self.told = now
            print(
                ("\r\x1b[K" if self.live else "") + self.line(),
                end="" if self.live and self.done < self.total else "\n",
                file=self.stream,
                flush=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def line(self) -> str:
        rate = self.done / max(self.seconds, 1e-9)
        left = f"{clock((self.total - self.done) / rate)} left" if 0 < self.done < self.total else f"in {clock(self.seconds)}"
        return f"{self.stage}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {left}, {self.errors} errors"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
