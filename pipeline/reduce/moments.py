"""Mean, deviation and interval of columns of numbers, in each of some groups of images.

C columns of metrics, N images, G groups
"""

from collections.abc import Sequence

import numpy as np

from pipeline.reduce import bootstrap


def moments(values: np.ndarray, images: np.ndarray, group: np.ndarray, groups: int) -> dict[str, np.ndarray]:
    """n, mean, std (of a sample) and the mean's bootstrap interval of each column of `values` [C N] in each group: [C G] each.

    `images` [N] are ids and `group` [N] numbers from 0, of `groups` in all. NaN among the values and the group -1 are left out. A number
    is NaN where it is undefined, an interval where n is less than two.
    """
    statistics = {name: np.full((len(values), groups), np.nan) for name in ("n", "mean", "std", "ci_low", "ci_high")}
    for c, usable in enumerate(np.isfinite(values) & (group >= 0)):
        column, group_of = values[c, usable], group[usable]
        n = np.bincount(group_of, minlength=groups).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(group_of, column, groups) / n
            std = np.sqrt(np.bincount(group_of, (column - mean[group_of]) ** 2, groups) / np.where(n > 1, n - 1, np.nan))
        statistics["n"][c], statistics["mean"][c], statistics["std"][c] = n, mean, std
    filled = statistics["n"].any(1)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(groups + 1))
    for i in range(groups if filled.any() else 0):
        members = order[edges[i] : edges[i + 1]]
        resamples = bootstrap.resampled_means(values[np.ix_(filled, members)], images[members])
        statistics["ci_low"][filled, i], statistics["ci_high"][filled, i] = bootstrap.percentile_interval(resamples)
    return statistics


def exact_interval(n: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """The interval of Clopper and Pearson (1934) of shares `mean` of `n` zeros and ones; NaN where n is 0."""
    from scipy.special import betaincinv

    ones, tail = np.rint(n * np.nan_to_num(mean)), (1 - bootstrap.CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(ones > 0, betaincinv(ones, n - ones + 1, tail), 0)
        high = np.where(ones < n, betaincinv(ones + 1, n - ones, 1 - tail), 1)
    return {"ci_low": np.where(n > 0, low, np.nan), "ci_high": np.where(n > 0, high, np.nan)}


def share_interval(share: float | None, n: int) -> tuple[float, float] | None:
    """The ends of the exact interval of one share of n; None where there is none."""
    if share is None or not n:
        return None
    ends = exact_interval(np.array([float(n)]), np.array([share]))
    return ends["ci_low"].item(), ends["ci_high"].item()


def in_words(share: float, ends: Sequence[float]) -> str:
    """A share with the ends of its interval at 95 %."""
    return f"{share:.4f} [{ends[0]:.4f}, {ends[1]:.4f}]"
