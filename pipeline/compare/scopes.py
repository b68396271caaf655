"""All images of a comparison and those of each class, and the rows of `drift` that numbers over them become.

C quantities, N images, G scopes
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.reduce.moments import exact_interval, moments


@dataclass(frozen=True)
class Scopes:
    """The classes that occur, and of each image [N] the position of its class among them (-1: no label)."""

    classes: Sequence[str]
    position: np.ndarray

    @staticmethod
    def of(labels: pa.ChunkedArray) -> "Scopes":
        """The scopes of images with these labels."""
        numbers = labels.fill_null(-1).to_numpy()
        classes = np.unique(numbers[numbers >= 0])
        return Scopes([str(label) for label in classes], np.where(numbers >= 0, np.searchsorted(classes, numbers), -1))

    def groups(self) -> tuple[tuple[Sequence[str], np.ndarray], ...]:
        """The names of the scopes and the position of each image's scope among them: once for all images, once by class."""
        return (["all"], np.zeros_like(self.position)), (self.classes, self.position)


def share_rows(quantity: str, happened: np.ndarray, scopes: Scopes) -> list[dict]:
    """The share of images [N] of which something is true (1, else 0) in each scope, with the interval of Clopper and Pearson."""
    rows = []
    for names, group in scopes.groups():
        known = group >= 0
        n = np.bincount(group[known], minlength=len(names))
        share = np.bincount(group[known], happened[known], len(names)) / np.maximum(n, 1)
        ends = exact_interval(n, share)
        rows += [_row(name, quantity, n[i], value=share[i], **{end: ends[end][i] for end in ends}) for i, name in enumerate(names)]
    return rows


def mean_rows(quantities: Sequence[str], values: np.ndarray, images: np.ndarray, scopes: Scopes) -> list[dict]:
    """The mean of each quantity [C N] in each scope, with its bootstrap interval; NaN is left out."""
    return _mean_rows(quantities, values, images, scopes, {})


def paired_rows(quantities: Sequence[str], before: np.ndarray, now: np.ndarray, images: np.ndarray, scopes: Scopes) -> list[dict]:
    """The mean of each quantity [C N] before and now, and of the paired difference with its interval, over the images that have both."""
    both = np.isfinite(before) & np.isfinite(now)
    before, now = (np.where(both, values, np.nan) for values in (before, now))
    return _mean_rows(quantities, now - before, images, scopes, {"before": before, "now": now})


def _mean_rows(
    quantities: Sequence[str], values: np.ndarray, images: np.ndarray, scopes: Scopes, beside: dict[str, np.ndarray]
) -> list[dict]:
    rows = []
    for names, group in scopes.groups():
        of_values = moments(values, images, group, len(names))
        means = {run: _means(numbers, group, len(names)) for run, numbers in beside.items()} | {"value": of_values["mean"]}
        means |= {end: of_values[end] for end in ("ci_low", "ci_high")}
        for c, quantity in enumerate(quantities):
            rows += [
                _row(name, quantity, of_values["n"][c, i], **{key: numbers[c, i] for key, numbers in means.items()})
                for i, name in enumerate(names)
            ]
    return rows


def _means(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """The mean of each row of `values` [C N] in each group [C G], without NaN."""
    sums, counts = np.zeros((2, len(values), groups))
    for c, usable in enumerate(np.isfinite(values) & (group >= 0)):
        sums[c] = np.bincount(group[usable], values[c, usable], groups)
        counts[c] = np.bincount(group[usable], minlength=groups)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _row(scope: str, quantity: str, n, **numbers) -> dict:
    finite = {name: float(number) if np.isfinite(number) else None for name, number in numbers.items()}
    return {"scope": scope, "quantity": quantity, "n": int(n), **finite}
