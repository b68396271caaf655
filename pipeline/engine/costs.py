"""Accounts of passes through the network and of seconds: rows by payer, summed over tasks.

Passes that several methods share are in the account of the first of them: `var_grad` beside `smooth_grad` costs nothing. Seconds are those of the
process that explains, by its monotonic clock. Nobody waits for a GPU to take them: what it still has to do when a method returns is in the
account of the next one that reads a result. Every method ends with a map that is read, so this moves the look's seconds to the first method.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pipeline.engine.batch import PASSES
from pipeline.engine.rehearsal import skipped

SECONDS = "seconds"
ROWS = 12  # of the table


@contextmanager
def timed(tally: Counter, payer: str) -> Iterator[None]:
    """Add the seconds that this takes to a payer's account, also where it raises."""
    began, left_out = time.monotonic(), skipped(tally)
    try:
        yield
    finally:
        tally.update({(payer, SECONDS): time.monotonic() - began + skipped(tally) - left_out})


def account_of(tally: Mapping[tuple[str, str], float], names: Iterable[str], images: int) -> dict[str, dict[str, int]]:
    """A task's tally by payer, each with the task's number of images: those in `names`, and all others that have spent something."""
    payers = {*names, *(payer for payer, _ in tally)}
    return {payer: {"images": images, **{kind: round(tally[payer, kind]) for kind in PASSES}} for payer in sorted(payers)}


def seconds_of(tally: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """A task's seconds by payer."""
    return {payer: round(amount, 4) for (payer, kind), amount in sorted(tally.items()) if kind == SECONDS}


def costs_of(facts: Mapping) -> Counter[tuple[str, str]]:
    """The passes and seconds in a receipt's facts, by payer and kind."""
    costs = Counter({(payer, kind): spent[kind] for payer, spent in facts.get("passes", {}).items() for kind in PASSES})
    costs.update({(payer, SECONDS): seconds for payer, seconds in facts.get("payer_seconds", {}).items()})
    return costs


def sum_accounts(accounts: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict]:
    """The accounts of many tasks as one, with the average cost of an image.

    `seconds` is the sum over the tasks that have told theirs; those of earlier versions have not.
    """
    sums: dict[str, Counter] = {}
    for account in accounts:
        for payer, rows in account.items():
            sums.setdefault(payer, Counter()).update(rows)
    return {
        payer: {
            **{name: spent[name] for name in ("images", *PASSES)},
            SECONDS: round(spent[SECONDS], 3),
            "per_image": _averages(spent),
        }
        for payer, spent in sorted(sums.items())
    }


def table(costs: Mapping[tuple[str, str], float]) -> list[str]:
    """Lines of a table: images passed forwards and backwards through the whole network, and seconds, the dearest payers first."""
    payers = sorted({payer for payer, _ in costs}, key=lambda payer: (-costs[payer, SECONDS], payer))
    if not payers:
        return []
    rows = [(payer, f"{costs[payer, 'forwards']:,}", f"{costs[payer, 'backwards']:,}", f"{costs[payer, SECONDS]:.1f}") for payer in payers]
    rows = [("method", "forwards", "backwards", "seconds"), *rows[:ROWS]]
    lines = [*in_columns(rows)]
    more = len(payers) - ROWS
    return [*lines, f"and {more} more, see `passes` in run.json"] if more > 0 else lines


def in_columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines of a table whose first column is on the left and whose others are on the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield "  ".join([first.ljust(wide[0]), *(cell.rjust(width) for cell, width in zip(others, wide[1:], strict=True))])


def _averages(spent: Mapping[str, float]) -> dict[str, float]:
    return {kind: round(spent[kind] / spent["images"], 3) for kind in PASSES if spent[kind]} if spent["images"] else {}
