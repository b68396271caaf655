"""Counts of maps that reducers add up, in any order."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.families import METRICS
from pipeline.refusal import Refusal, counted
from pipeline.score.scoring import Score, corpus_numbers
from pipeline.spec.columns import GROUPS, columns_of
from pipeline.spec.grammar import Choice
from pipeline.tables.identity import seed_of

WHOLE = 2**20  # curves are added up in these parts: whole numbers, exact in any order up to 2^33 images


def group_of(image_id: str) -> str:
    """The group of images that an image belongs to, decided by a hash of its id."""
    return f"group {seed_of('group', image_id) % GROUPS:02d}"


def add_score(sums: dict[str, np.ndarray], score: Score, group: str | None = None) -> None:
    """Add one map's counts to sums by name: `n` and `n_null` count maps with and without them, `null: REASON` says why.

    A curve counts as `curve: COLUMN`, rounded to whole parts. Counts of an image that has a `group` count once more as `GROUP: NAME`.

    Raises:
        Refusal: where the score has more or fewer counts than the sums; they stay as they are.
    """
    curves = {f"curve: {column}": np.round(curve * WHOLE) for column, curve in score.curves.items()}
    counts: dict[str, Any] = {"n_null": [1], f"null: {score.reason}": [1]} if score.reason else {"n": [1], **(curves or score.values)}
    if group and not score.reason:
        counts |= {f"{group}: {kind}": values for kind, values in counts.items()}
    added = {kind: np.asarray(values, dtype=np.float64) for kind, values in counts.items()}
    misfit = next((kind for kind, values in added.items() if kind in sums and np.shape(sums[kind]) != values.shape), None)
    if misfit:
        raise Refusal(f"it counts {misfit} as {counted(added[misfit].size, 'numbers')}, and of other images as {np.size(sums[misfit])}")
    sums.update({kind: sums.get(kind, 0) + values for kind, values in added.items()})


def by_group(sums: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Group -> the sums of its images by name."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for kind, values in sums.items():
        group, _, name = kind.partition(": ")
        if group.startswith("group "):
            groups.setdefault(group, {})[name] = values
    return groups


def totals(choice: Choice, sums: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """The columns of a dataset-level metric, from its sums; None where no map had a value."""
    numbers = corpus_numbers(choice, sums) if "n" in sums and METRICS[choice.name].corpus_level else None
    if numbers is None:
        return dict.fromkeys(columns_of(choice))
    return {column: number if np.isfinite(number) else None for column, number in numbers.items()}
