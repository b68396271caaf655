"""Facts about HiRes-CAM."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear"}
COST = "1F + 1b"
HAND = [[1.0 - 3.0, -2.0], [0.0, 3.0]]
PACKAGE = ("HiResCAM", "hires_cam")


def reference(A, dA):
    return np.maximum((A * dA).sum(1), 0)
