"""Percentile intervals at 95 % of means, from the Poisson bootstrap.

A hash of an item's name decides how often each resample draws it (Chamandy, Muralidharan, Najmi, Naidu, "Estimating uncertainty for
massive data streams", 2012). Methods, metrics and their differences therefore see the same resamples, whatever other items there are.

K columns of numbers, N items that have them, R resamples
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from math import exp, factorial
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
CHUNK = 1024  # items whose draws are in memory at once: 8 MB
Key = tuple[Any, ...]  # of one of several means
MOST = 8  # draws of one item that 16 random bits can come to

# 16 random bits -> a draw from Poisson(1)
_DRAWS = np.searchsorted(np.cumsum([exp(-1) / factorial(k) for k in range(MOST)]) * 2**16, np.arange(2**16), side="right").astype(np.uint8)


def draws_of(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """The number of times that each resample draws each of N items: whole numbers [N R]."""
    bits = b"".join(hashlib.shake_128(name.encode()).digest(2 * RESAMPLES) for name in names)
    return _DRAWS[np.frombuffer(bits, "<u2")].reshape(len(names), RESAMPLES)


def resampled_means(values: np.ndarray, names: Sequence[str] | np.ndarray) -> np.ndarray:
    """The mean of each column of `values` [K N] in each resample of the items `names` [N]: [K R]. NaN among the values is left out.

    NaN where a resample draws no item that has a value, and throughout where fewer than two items have one. Values are rounded to whole
    multiples of a power of two, 2^-34 of the column's largest for 50,000 items. Sums are exact then, and the same in any order.
    """
    finite = np.isfinite(values)
    whole = np.where(finite, values, 0)
    bits = 53 - np.frexp(MOST * finite.sum(1))[1]
    unit = np.frexp(np.abs(whole).max(1, initial=0))[1] - bits
    whole = np.rint(np.ldexp(whole, -unit[:, None]))
    patterns, pattern_of = np.unique(finite, axis=0, return_inverse=True)  # columns with values of the same items share their counts
    sums, counts = np.split(resampled_sums(np.concatenate([whole, patterns]), names), [len(whole)])
    enough = finite.sum(1, keepdims=True) > 1
    size = counts[pattern_of]
    return np.divide(np.ldexp(sums, unit[:, None]), size, out=np.full(size.shape, np.nan), where=enough & (size > 0))


def resampled_sums(values: np.ndarray, names: Sequence[str] | np.ndarray) -> np.ndarray:
    """The sum of each column of `values` [K N], none of which is NaN, in each resample of the items `names` [N]: [K R]."""
    sums = np.zeros((len(values), RESAMPLES))
    for start in range(0, len(names), CHUNK):
        chunk = slice(start, start + CHUNK)
        sums += values[:, chunk] @ draws_of(names[chunk]).astype(np.float64)
    return sums


def percentile_interval(resamples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends [...] of the percentile interval of numbers [... R], interpolated linearly. NaN is left out; ends of nothing are NaN."""
    ordered = np.sort(resamples, -1)  # NaN come last
    last = np.maximum(np.isfinite(ordered).sum(-1, keepdims=True) - 1, 0)
    ends = []
    for quantile in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        position = last * quantile
        below = position.astype(np.int64)
        low, high = (np.take_along_axis(ordered, np.minimum(index, last), -1) for index in (below, below + 1))
        ends.append((low + (position - below) * (high - low))[..., 0])
    return ends[0], ends[1]


class RunningMeans:
    """Means of numbers of size 1 at most, under any keys, over items that come in parts; each in the same resamples as those of other keys.

    Numbers are rounded to multiples of 2^-34 in the resamples, whose sums are therefore exact for 65,536 items.
    """

    def __init__(self):
        self.sums: dict[Key, np.ndarray] = {}  # [2 1 + R]: of the numbers and their counts, of the items and in each resample

    def add(self, values: Mapping[Key, np.ndarray], names: Sequence[str] | np.ndarray) -> None:
        """Add numbers [N] of the items `names` [N] by key; NaN is left out."""
        if not values:
            return
        matrix = np.stack([*values.values()]).astype(np.float64)
        finite = np.isfinite(matrix)
        matrix = np.where(finite, matrix, 0)
        both = np.concatenate([np.ldexp(np.rint(np.ldexp(matrix, 34)), -34), finite])
        sums = np.concatenate([np.concatenate([matrix, finite]).sum(1)[:, None], resampled_sums(both, names)], 1)
        for key, *of_key in zip(values, sums[: len(matrix)], sums[len(matrix) :], strict=True):
            self.sums[key] = self.sums.get(key, 0) + np.stack(of_key)

    def estimates(self) -> Iterator[tuple[Key, dict[str, float | int | None]]]:
        """Each key, in their order, with `mean`, `ci_low`, `ci_high` and `n`; without an interval below two numbers."""
        for key, (sums, counts) in sorted(self.sums.items()):
            n = int(counts[0])
            means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
            ends = percentile_interval(means[1:]) if n > 1 else (None, None)
            yield key, {"mean": float(means[0]) if n else None, **dict(zip(("ci_low", "ci_high"), map(_plain, ends), strict=True)), "n": n}


def _plain(end: np.ndarray | None) -> float | None:
    return None if end is None else float(end)
