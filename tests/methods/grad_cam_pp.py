"""Facts about Grad-CAM++."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear", "eps": 0.0}
COST = "1F + 1b"
# channel 0: sum A = 7; alpha = 1/(2+7g): g=1: 1/9, g=2: 1/16 -> w = 1/9 + 2/16; channel 1: sum A = 5; g=3: 1/17 -> w = 3/17
HAND = [[17 / 72 + 9 / 17, 34 / 72], [3 / 17, 68 / 72 + 3 / 17]]
# the package adds 1e-6 to alpha's denominator, which outweighs g^2 on a trained head
PACKAGE = ("GradCAMPlusPlus", "grad_cam_pp(eps=1e-6)")


def reference(A, dA):
    with np.errstate(divide="ignore", invalid="ignore"):
        denominator = 2 * dA**2 + A.sum((2, 3), keepdims=True) * dA**3
        alpha = np.where(denominator == 0, 0, dA**2 / denominator)
    return np.maximum(((alpha * np.maximum(dA, 0)).sum((2, 3), keepdims=True) * A).sum(1), 0)
