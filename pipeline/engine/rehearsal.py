"""A rehearsal: the engine makes the first passes of every long loop, and counts the others as if they had been like these.

Its maps are worth nothing. Its tally is what the whole would have cost, in passes and in seconds, at a small share of the time.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Step = TypeVar("Step")
WARM, MADE = 1, 3  # steps of a loop that are made and not taken as an example, and all that are made


class Rehearsal(Counter):
    """A tally (see `Batch.tally`) under which long loops are cut short; `skipped` are the seconds that were not spent."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0


class _Moment(NamedTuple):
    seconds: float
    counts: dict


def steps_of(tally: Counter, steps: Iterable[Step], total: float, size: float = 1) -> Iterator[Step]:
    """The steps of a loop; in a rehearsal the first of them, the others being added to the tally.

    Parameters:
        total: the size of all steps together; a step's is `size`, and what it costs is taken to grow with it.
    """
    if not isinstance(tally, Rehearsal):
        yield from steps
        return
    warm: _Moment | None = None
    for made, step in enumerate(steps, 1):
        yield step
        if made == WARM:
            warm = _Moment(time.monotonic(), dict(tally))
        if made == MADE and warm and made * size < total:
            _skip(tally, warm, (total - made * size) / ((made - WARM) * size))
            return


def _skip(tally: Rehearsal, since: _Moment, share: float) -> None:
    """Add what was spent since a moment as often again as `share` says."""
    tally.skipped += (time.monotonic() - since.seconds) * share
    for key, count in dict(tally).items():
        spent = count - since.counts.get(key, 0)
        if spent:
            tally[key] = count + spent * share


def rehearsing(tally: Counter) -> bool:
    """Whether a tally is that of a rehearsal."""
    return isinstance(tally, Rehearsal)


def skipped(tally: Counter) -> float:
    """The seconds that a tally counts and that were not spent."""
    return tally.skipped if isinstance(tally, Rehearsal) else 0.0
