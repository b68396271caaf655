"""MaxBoxAccV2 (wsolevaluation): images where a contour's box overlaps a true one by delta, in 8 bits, with its pixel conventions.

The best threshold for the dataset at each delta, then the mean over delta. Contours are outlines and the rims of holes.
With `thresholds=log` as many thresholds run evenly in the logarithm from 1e-7 to 1, and the map keeps its decimals: 8 bits end at 1/255.
"""

from typing import Literal

import numpy as np

from pipeline.families import Share, metric
from pipeline.maps.boxes import contours, overlaps

DELTAS = np.array([0.3, 0.5, 0.7])


def best_threshold(hits, n):
    """Hits [D T] in a row, n images -> mean over D of the best accuracy over T."""
    return (hits.reshape(len(DELTAS), -1).max(1) / n).mean()


@metric(corpus_level=best_threshold)
def max_box_acc_v2(S, boxes, *, step: Share = 0.01, thresholds: Literal["even", "log"] = "even"):
    even = np.arange(0, 1, step)
    u, taus = ((255 * S).astype(np.uint8), even) if thresholds == "even" else (S, 10 ** (7 * even - 7))
    far = np.array([np.inf, np.inf, S.shape[1] - 1, S.shape[0] - 1])
    truth = np.trunc(boxes * [*S.shape[::-1], *S.shape[::-1]])
    levels, level_of = np.unique(np.trunc(taus * u.max()) if thresholds == "even" else taus * u.max(), return_inverse=True)
    best = []
    for level in levels:
        best.append(overlaps(np.minimum(contours(u > level), far), truth, edge=1).max())
    return {"hits": (DELTAS[:, None] <= np.array(best)[level_of]).astype(np.int64).ravel()}
