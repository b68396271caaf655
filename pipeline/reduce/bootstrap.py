"""Bootstrap intervals: what a mean comes to over the same things, drawn again with replacement, at 95 %.

How often a thing is drawn is decided by its name alone (the Poisson bootstrap: Chamandy, Muralidharan, Najmi, Naidu, "Estimating
uncertainty for massive data streams", 2012). So methods, metrics and their differences see the same resamples, whatever else is there.

K columns of numbers, N things that have them, R resamples
"""

import hashlib
from collections.abc import Sequence
from math import exp, factorial

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
CHUNK = 1024  # things whose draws are in memory at once: 8 MB
MOST = 8  # draws of one thing that 16 random bits can come to

# 16 random bits -> a draw from Poisson(1)
_DRAWS = np.searchsorted(np.cumsum([exp(-1) / factorial(k) for k in range(MOST)]) * 2**16, np.arange(2**16), side="right").astype(np.uint8)


def drawn(names: Sequence[str]) -> np.ndarray:
    """How often each of N things is in each resample: whole numbers [N R]."""
    bits = b"".join(hashlib.shake_128(name.encode()).digest(2 * RESAMPLES) for name in names)
    return _DRAWS[np.frombuffer(bits, "<u2")].reshape(len(names), RESAMPLES)


def means(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The mean of each column of `values` [K N], NaN being none, in each resample of what `names` [N] names: [K R].

    NaN where nothing was drawn that has a value, and throughout where fewer than two have one. Values are rounded to whole multiples of
    a power of two, 2^-34 of the column's largest for 50,000 things, which makes the sums exact: the same in any order.
    """
    known = np.isfinite(values)
    whole = np.where(known, values, 0)
    bits = 53 - np.frexp(MOST * known.sum(1))[1]
    unit = np.frexp(np.abs(whole).max(1, initial=0))[1] - bits
    whole = np.rint(np.ldexp(whole, -unit[:, None]))
    counted, which = np.unique(known, axis=0, return_inverse=True)
    sums = np.zeros((len(whole), RESAMPLES)), np.zeros((len(counted), RESAMPLES))
    for start in range(0, len(names), CHUNK):
        part = slice(start, start + CHUNK)
        times = drawn(names[part]).astype(np.float64)
        for total, each in zip(sums, (whole, counted), strict=True):
            total += each[:, part] @ times
    enough = known.sum(1, keepdims=True) > 1
    size = sums[1][which]
    return np.divide(np.ldexp(sums[0], unit[:, None]), size, out=np.full(size.shape, np.nan), where=enough & (size > 0))


def interval(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of numbers [... R], leaving out NaN, interpolated linearly: its ends [...]; NaN where there are none."""
    ordered = np.sort(resampled, -1)  # NaN come last
    last = np.isfinite(ordered).sum(-1, keepdims=True) - 1
    ends = []
    for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        place = np.maximum(last, 0) * tail
        below = place.astype(np.int64)
        low, high = (np.take_along_axis(ordered, np.minimum(each, np.maximum(last, 0)), -1) for each in (below, below + 1))
        ends.append((low + (place - below) * (high - low))[..., 0])
    return ends[0], ends[1]
