"""The order of a map's pixels against the pixels of an object, where pixels of one value stand in random order.

N pixels
"""

import numpy as np


def expected_inside(values: np.ndarray, positive: np.ndarray, k: int) -> float:
    """The expected number of positive pixels among the k highest values [N], 1 <= k <= N."""
    least = np.partition(values, -k)[-k]
    above, tied = values > least, values == least
    return positive[above].sum() + (k - above.sum()) * positive[tied].mean()


def area_under_roc(values: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs of a positive and another pixel [N] in which the positive one is higher; a tied pair counts half (E62)."""
    from scipy.stats import rankdata

    count, others = positive.sum(), (~positive).sum()
    return (rankdata(values)[positive].sum() - count * (count + 1) / 2) / (count * others)
