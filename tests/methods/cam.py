"""Facts about CAM."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear"}  # CAM papers: ReLU, no epsilon but where the formula itself has one
COST = "1F"
HAND = [[-2.0, 1.0 * 2], [-1.0, 4.0 - 1.0]]  # weights (1, -1)


def reference(A, dA):
    """Pooling + linear only: the classifier's weights are the gradient times the number of cells."""
    return np.maximum((dA[:, :, :1, :1] * dA[0, 0].size * A).sum(1), 0)
