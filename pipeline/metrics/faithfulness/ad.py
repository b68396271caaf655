"""Average drop (Opti-CAM eq. 13): the class's loss, as a share, when the image is dimmed by its map."""

import numpy as np

from pipeline.families import dimmed, metric


@metric(perturbations={"dimmed": dimmed}, columns={"ad": "lower", "ad_pred": "lower"}, family="faithfulness", constant=True)
def ad(p, dimmed):
    return np.maximum(p - dimmed.p[0], 0) / np.maximum(p, 1e-12)
