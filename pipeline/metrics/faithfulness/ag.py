"""Average gain (Opti-CAM eq. 15): the class's gain, as a share of the largest possible one, when the image is dimmed by its map."""

import numpy as np

from pipeline.families import dimmed, metric


@metric(perturbations={"dimmed": dimmed}, columns={"ag": "higher", "ag_pred": "higher"}, family="faithfulness", constant=True)
def ag(p, q, dimmed):
    return np.maximum(dimmed.p[0] - p, 0) / np.maximum(q, 1e-12)
