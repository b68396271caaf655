"""Relevance mass accuracy (Arras et al. 2022): the share of the map's sum that lies on the object's mask; `energy` by mask in place of the box.

As in `energy` only the positive part counts, above its floor.
"""

import numpy as np

from pipeline.families import Undefined, metric


@metric
def mass_accuracy(raw, positive, counted):
    S = np.maximum(raw, 0, dtype=np.float64)
    if not S.any():
        raise Undefined("nothing in the map speaks for the target")
    S -= S.min()
    return S[positive & counted].sum() / S[counted].sum()
