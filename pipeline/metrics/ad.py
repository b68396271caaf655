"""Average drop (Opti-CAM eq. 13; E1): what the class loses, as a share, when the image is dimmed by its map."""

import numpy as np

from pipeline.families import metric


@metric(columns={"ad": "lower", "ad_pred": "lower"}, family="faithfulness", constant=True)
def ad(p, o):
    return np.maximum(p - o, 0) / np.maximum(p, 1e-12)
