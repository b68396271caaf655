"""Maps of known kinds."""

import numpy as np


def blobs(sizes, seed=0, spread=0.05, side=7):
    """Maps [N side side] in [0, 1], as many of each kind as `sizes` says: a bump each kind has at a place of its own; and their kinds [N]."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.array([(1, 1), (5, 5), (1, 5), (5, 1)])[kind] + rng.normal(0, spread * side, (len(kind), 2))
    rows, columns = np.mgrid[:side, :side]
    return np.exp(-((rows - centres[:, 0, None, None]) ** 2 + (columns - centres[:, 1, None, None]) ** 2) / 4), kind
