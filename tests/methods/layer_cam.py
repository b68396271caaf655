"""Facts about Layer-CAM."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear"}
COST = "1F + 1b"
HAND = [[1.0, 0.0], [0.0, 3.0]]
PACKAGE = ("LayerCAM", "layer_cam")


def reference(A, dA):
    return np.maximum((A * np.maximum(dA, 0)).sum(1), 0)
