"""Average gain (Opti-CAM eq. 15; E3): what the class gains, as a share of what it could, when the image is dimmed by its map."""

import numpy as np

from pipeline.families import metric


@metric(columns={"ag": "higher", "ag_pred": "higher"}, family="faithfulness", constant=True)
def ag(p, q, o):
    return np.maximum(o - p, 0) / np.maximum(q, 1e-12)
