"""Energy in the box (Finer-CAM's Loc., the energy-based pointing game): the share of the map's sum that lies on the object.

Of a map with a sign only evidence for the target counts: min-max would make a floor of the evidence against it.
"""

import numpy as np

from pipeline.families import Undefined, metric


@metric(version=2)
def energy(raw, inside):
    S = np.maximum(raw, 0, dtype=np.float64)
    if not S.any():
        raise Undefined("nothing in the map speaks for the target")
    S -= S.min()
    return S[inside].sum() / S.sum()
