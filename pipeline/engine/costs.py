"""Passes through the network as a run's books have them: rows by who asked for them, summed over tasks.

What several methods share is in the account of the first of them: `var_grad` beside `smooth_grad` costs nothing.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.engine.batch import PASSES


def told(tally: Mapping[tuple[str, str], int], asked: Iterable[str], images: int) -> dict[str, dict[str, int]]:
    """A task's tally by payer: those `asked` with the number of images they were asked about, and whoever else has spent something."""
    payers = {*asked, *(payer for payer, _ in tally)}
    return {payer: {"images": images, **{kind: tally[payer, kind] for kind in PASSES}} for payer in sorted(payers)}


def summed(accounts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict]:
    """The accounts of many tasks as one, with what an image has cost on average."""
    total: dict[str, Counter] = {}
    for account in accounts:
        for payer, spent in account.items():
            total.setdefault(payer, Counter()).update(spent)
    return {
        payer: {**{name: spent[name] for name in ("images", *PASSES)}, "per_image": _averages(spent)}
        for payer, spent in sorted(total.items())
    }


def _averages(spent: Mapping[str, int]) -> dict[str, float]:
    return {kind: round(spent[kind] / spent["images"], 3) for kind in PASSES if spent[kind]} if spent["images"] else {}
