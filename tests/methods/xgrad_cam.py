"""Facts about XGrad-CAM."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear", "eps": 1e-7}
COST = "1F + 1b"
# channel 0: (1 - 2 + 0 + 0)/7; channel 1: (-3 + 3)/5
HAND = [[-1 / 7, -2 / 7], [0.0, -4 / 7]]
PACKAGE = ("XGradCAM", "xgrad_cam")


def reference(A, dA):
    return np.maximum(((A * dA).sum((2, 3), keepdims=True) / (A.sum((2, 3), keepdims=True) + 1e-7) * A).sum(1), 0)
