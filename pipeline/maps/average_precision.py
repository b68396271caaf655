"""Counts of pixels by a map's value, and their average precision: how well the map orders the pixels of an object before all others.

H W pixels
"""

import numpy as np

LOWEST = -7  # exponent of 10 of the lowest logarithmic threshold: CALM's maps are small probabilities


def by_value(values: np.ndarray, positive: np.ndarray, counted: np.ndarray, bins: int, thresholds: str) -> dict[str, np.ndarray]:
    """The pixels [H W] that count, on the object and off it, by the value of a map in [0, 1]: two counts [bins + 1].

    `even` thresholds lie at i / bins; `log` ones are `bins` powers of ten from 1e-7 to 1. Those of `calm` are as its released evaluator has
    them: `bins` powers of ten from 10^(7 / bins - 7) to 1, and pixels below the lowest one count nowhere.
    """
    if thresholds == "even":
        index = (values * bins).astype(np.int64)
    else:
        first = LOWEST if thresholds == "log" else LOWEST * (1 - 1 / bins)
        edges = np.logspace(first, 0, bins)
        index = np.searchsorted(edges, values, side="right")
        counted = counted & (index > 0) if thresholds == "calm" else counted
    index = index + positive * (bins + 1)
    counts = np.bincount(index[counted] if not counted.all() else index.ravel(), minlength=2 * (bins + 1))
    return dict(zip(("negative", "positive"), np.split(counts, 2), strict=True))


def average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    """Counts by value, lowest first -> AP, a fraction (E16: right-end rule, no interpolation); NaN where nothing is positive."""
    hits, misses = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    pixels = hits + misses
    precision = np.divide(hits, pixels, out=np.zeros(len(hits)), where=pixels > 0)
    return (precision * np.diff(hits, prepend=0)).sum() / hits[-1] if hits[-1] else np.nan
