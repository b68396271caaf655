"""The progress of a job on standard error: whole lines, and below them, on a terminal, one line that moves."""

import logging
import shutil
import sys
import time
from dataclasses import dataclass, field

from pipeline.refusal import counted

REDRAW_SECONDS = 0.1  # of the moving line
PLAIN_SECONDS = 10.0  # between lines about one stage where there is no terminal


class Screen:
    """Standard error of this process. Everybody writes through the one `SCREEN`, so that a whole line never ends up in the moving one."""

    def __init__(self):
        self.has_moving_line, self.redraw_time = False, 0.0

    def line(self, text: str) -> None:
        """Write a whole line, after the time of day."""
        print(f"{self._clear_moving_line()}{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def raw(self, text: str) -> None:
        """Write a line as it is: it is for a program to read."""
        print(f"{self._clear_moving_line()}{text}", file=sys.stderr, flush=True)

    def begin(self, text: str) -> None:
        """Show that a stage begins: a terminal at once, elsewhere its first line is due after a while."""
        self.redraw_time = 0.0 if sys.stderr.isatty() else time.monotonic()
        self.progress(text)

    def progress(self, text: str) -> None:
        """Show how far a stage is: in the moving line of a terminal, elsewhere in a whole line now and then."""
        is_terminal, now = sys.stderr.isatty(), time.monotonic()
        if now - self.redraw_time < (REDRAW_SECONDS if is_terminal else PLAIN_SECONDS):
            return
        if not is_terminal:
            self.line(text)
        else:
            clear = self._clear_moving_line()
            width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be cleared
            print(f"{clear}{time.strftime('%H:%M:%S')} {text}"[: len(clear) + width], end="", file=sys.stderr, flush=True)
            self.has_moving_line = True
        self.redraw_time = now

    def _clear_moving_line(self) -> str:
        """Forget the moving line; returns the characters that clear it, none where there was no such line."""
        escape, self.has_moving_line = "\r\x1b[K" if self.has_moving_line else "", False
        return escape


SCREEN = Screen()


class ScreenHandler(logging.Handler):
    """Log records as lines of the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        SCREEN.line(self.format(record))


@dataclass
class Progress:
    """Counts the finished units of a stage, out of a total, and the failed ones among them.

    Attributes:
        stage: the stage's name, a verb: `list`.
        unit: the name of the counted things, in the plural.
    """

    stage: str
    total: int
    unit: str
    done: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, done: int = 1, failed: int = 0) -> None:
        self.done, self.failed = self.done + done, self.failed + failed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Units done in a second."""
        return self.done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before anything is done."""
        return (self.total - self.done) / self.rate if self.done else None

    @property
    def numbers(self) -> dict:
        """The counts under the names that the status file and the events have for them."""
        seconds_left = self.seconds_left
        return {
            self.unit: self.total,
            f"{self.unit}_done": self.done,
            f"{self.unit}_failed": self.failed,
            f"{self.unit}_per_second": round(self.rate, 3),
            "seconds_left": None if seconds_left is None else round(seconds_left),
        }

    @property
    def line(self) -> str:
        """One line about a stage that goes on."""
        remainder = "" if self.seconds_left is None else f", {clock(self.seconds_left)} left"
        return f"{self.stage}: {self.done}/{counted(self.total, self.unit)}, {self.rate:.1f}/s{remainder}, {self.failed} failed"

    @property
    def summary(self) -> str:
        """One line about a stage that is over."""
        part = "" if self.done == self.total else f"{self.done}/"
        return f"{self.stage}: {part}{counted(self.total, self.unit)} in {clock(self.seconds)}, {self.rate:.1f}/s, {self.failed} failed"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
