"""The share of pixels whose value another pixel has as well: an order of the pixels leaves these to its rule for ties."""

import numpy as np

from pipeline.families import metric


@metric(better="lower", family="shape", constant=True)
def tie_share(S):
    _, counts = np.unique(S, return_counts=True)
    return counts[counts > 1].sum() / S.size
