"""Percentile intervals at 95 % of means, from the Poisson bootstrap.

A hash of an item's name decides how often each resample draws it (Chamandy, Muralidharan, Najmi, Naidu, "Estimating uncertainty for
massive data streams", 2012). Methods, metrics and their differences therefore see the same resamples, whatever other items there are.

K columns of numbers, N items that have them, R resamples
"""

import hashlib
from collections.abc import Sequence
from math import exp, factorial

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
CHUNK = 1024  # items whose draws are in memory at once: 8 MB
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
    sums, counts = np.zeros((len(whole), RESAMPLES)), np.zeros((len(patterns), RESAMPLES))
    for start in range(0, len(names), CHUNK):
        chunk = slice(start, start + CHUNK)
        draws = draws_of(names[chunk]).astype(np.float64)
        sums += whole[:, chunk] @ draws
        counts += patterns[:, chunk] @ draws
    enough = finite.sum(1, keepdims=True) > 1
    size = counts[pattern_of]
    return np.divide(np.ldexp(sums, unit[:, None]), size, out=np.full(size.shape, np.nan), where=enough & (size > 0))


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
