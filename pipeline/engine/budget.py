"""The number of rows of one pass: as many as the memory holds, whatever the batch.

A row is one image in one pass: an image, a masked copy of it, a point on its walk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.engine.batch import Batch
from pipeline.engine.rehearsal import steps_of

# More only costs memory: a CPU is at its best with a few rows, and a backward keeps every value of its forward.
ROWS = {"forward": {"cpu": 16, "cuda": 256}, "backward": {"cpu": 8, "cuda": 64}}


@dataclass
class Budget:
    """Rows of a pass; halved for good where the GPU's memory does not hold them."""

    rows: int


def budget_of(batch: Batch, payer: str, kind: str = "forward") -> Budget:
    """The rows of a pass that `payer` makes. Each has its own: the memory that one lacks must not move another's last digits."""
    rows = ROWS[kind]
    return batch.cached(("budget", payer, kind), lambda: Budget(rows.get(batch.pixels.device.type, rows["cpu"])))


def within_budget(
    batch: Batch,
    count: int,
    one_pass: Callable[[int, int], None],
    payer: str = "",
    kind: str = "forward",
    rows_each: int = 1,
    most: int | None = None,
    filled: bool = False,
) -> None:
    """Call `one_pass(start, stop)` over `count` items, in order, as many at a time as the budget allows.

    A pass that runs out of the GPU's memory is made again in halves, so all that it leaves behind must be overwritten the next time.

    Parameters:
        kind: `forward`, or `backward` where a gradient is taken as well.
        rows_each: rows of one item.
        most: items of a pass, where their memory is known to be large.
        filled: whether the passes write into something that holds values already, so that a rehearsal may leave most of them out.
    """
    budget = budget_of(batch, payer, kind)
    items = max(1, budget.rows // rows_each) if most is None else max(1, min(budget.rows // rows_each, most))
    starts = range(0, count, items)
    for start in steps_of(batch.tally, starts, count, items) if filled else starts:
        _halving(budget, start, min(start + items, count), one_pass, rows_each)


def _halving(budget: Budget, start: int, end: int, one_pass: Callable[[int, int], None], rows_each: int) -> None:
    """Call `one_pass` from `start` to `end`, as many items at a time as there is memory for."""
    while start < end:
        stop = min(start + max(1, budget.rows // rows_each), end)
        try:
            one_pass(start, stop)
            start = stop
            continue
        except torch.cuda.OutOfMemoryError:
            if stop - start == 1:
                raise
        # only now: the exception held on to what the pass had allocated
        budget.rows = (stop - start) * rows_each // 2
        torch.cuda.empty_cache()
