"""Facts about Grad-CAM."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear"}
COST = "1F + 1b"
HAND = [[0.5 + 1.5, 1.0], [0.5, 2.0 + 0.5]]  # means (1/2, 1/2)
PACKAGE = ("GradCAM", "grad_cam")


def reference(A, dA):
    return np.maximum((dA.mean((2, 3), keepdims=True) * A).sum(1), 0)
