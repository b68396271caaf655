"""Average gain (Opti-CAM eq. 15): what the class gains, as a share of what it could, when the image is dimmed by its map."""

import numpy as np

from pipeline.families import Dimmed, metric


@metric(sets={"dimmed": lambda: Dimmed()}, columns={"ag": "higher", "ag_pred": "higher"}, family="faithfulness", constant=True)
def ag(p, q, dimmed):
    return np.maximum(dimmed.p[0] - p, 0) / np.maximum(q, 1e-12)
