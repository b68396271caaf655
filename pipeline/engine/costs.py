"""Accounts of passes through the network: rows by payer, summed over tasks.

Passes that several methods share are in the account of the first of them: `var_grad` beside `smooth_grad` costs nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.engine.batch import PASSES


def account_of(tally: Mapping[tuple[str, str], int], names: Iterable[str], images: int) -> dict[str, dict[str, int]]:
    """A task's tally by payer, each with the task's number of images: those in `names`, and all others that have spent something."""
    payers = {*names, *(payer for payer, _ in tally)}
    return {payer: {"images": images, **{kind: tally[payer, kind] for kind in PASSES}} for payer in sorted(payers)}


def sum_accounts(accounts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict]:
    """The accounts of many tasks as one, with the average cost of an image."""
    sums: dict[str, Counter] = {}
    for account in accounts:
        for payer, rows in account.items():
            sums.setdefault(payer, Counter()).update(rows)
    return {
        payer: {**{name: rows[name] for name in ("images", *PASSES)}, "per_image": _averages(rows)} for payer, rows in sorted(sums.items())
    }


def _averages(rows: Mapping[str, int]) -> dict[str, float]:
    return {kind: round(rows[kind] / rows["images"], 3) for kind in PASSES if rows[kind]} if rows["images"] else {}
