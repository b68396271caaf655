"""The end of every job: one line that says what went wrong, and an exit code that means something."""

import logging
import sys
from collections.abc import Callable

from pipeline.progress import ScreenHandler
from pipeline.refusal import Refusal, one_line
from pipeline.tables.publish import Overtaken, TooManyFailed
from pipeline.tables.receipts import Damaged


class OutOfTime(Exception):
    """A job has used up its --stop-after."""


CODES = "exit codes: 0 complete, 1 broken off, 2 refused, 3 incomplete or overtaken."


def exit_code_of(job: Callable[[], int]) -> int:
    """Run a job, which returns an exit code of its own; returns that or the code of its error. Its warnings go to the screen."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ScreenHandler()])
    try:
        return job()
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    except (Overtaken, TooManyFailed) as unpublished:
        print(f"error: {unpublished}", file=sys.stderr)
        return 3
    except (Damaged, OSError, OutOfTime) as broken:
        print(f"error: {type(broken).__name__}: {one_line(broken)}; what is done stays done: run the job again", file=sys.stderr)
        return 1
