"""Facts about Eigen-CAM."""

import numpy as np

DEFAULTS = {"norm": "relu", "drawn": "bilinear"}
COST = "1F"
# cells (1,3) (2,0) (0,1) (4,1) about their mean (7/4, 5/4): scatter [[8.75, -1.75], [-1.75, 4.75]],
# largest eigenvector (cos t, sin t) with tan 2t = -3.5 / 4
ANGLE = 0.5 * np.arctan2(-3.5, 4.0)
HAND = ((np.array([[1, 3], [2, 0], [0, 1], [4, 1]]) - [1.75, 1.25]) @ [np.cos(ANGLE), np.sin(ANGLE)]).reshape(2, 2)
# the package leaves the sign of the first singular vector as the solver returns it
PACKAGE = ("EigenCAM", "eigen_cam(norm=minmax)")


def reference(A, dA):
    maps = []
    for one in A:
        cells = one.reshape(len(one), -1).T
        cells = cells - cells.mean(0)
        projection = cells @ np.linalg.svd(cells, full_matrices=False)[2][0]
        projection = projection if projection.max() >= -projection.min() else -projection
        maps.append(projection.reshape(one.shape[1:]))
    return np.maximum(np.stack(maps), 0)
