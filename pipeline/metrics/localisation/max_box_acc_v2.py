"""MaxBoxAccV2 (wsolevaluation): images where a contour's box overlaps a true one by delta, in 8 bits, with its pixel conventions.

The best threshold for the dataset at each delta, then the mean over delta. Contours are outlines and the rims of holes.
With `thresholds=log` as many thresholds run evenly in the logarithm from 1e-7 to 1, and the map keeps its decimals: 8 bits end at 1/255.
MaxBoxAcc, the first version, is `max_box_acc_v2(contours=largest,deltas=0.5)`.
"""

from typing import Literal

import numpy as np

from pipeline.families import Later, Share, metric
from pipeline.maps.boxes import contour_boxes, overlaps, whole_pixels

DELTAS = (0.3, 0.5, 0.7)


def best_threshold(hits, n, *, deltas: Later[tuple[Share, ...]] = DELTAS):
    """Hits [D T] in a row, n images -> mean over D of the best accuracy over T."""
    return (hits.reshape(len(deltas), -1).max(1) / n).mean()


@metric(corpus_level=best_threshold, version=2)
def max_box_acc_v2(
    S, boxes, *, step: Share = 0.01, thresholds: Literal["even", "log"] = "even",
    contours: Later[Literal["all", "largest"]] = "all", deltas: Later[tuple[Share, ...]] = DELTAS,
):  # fmt: skip
    even = np.arange(0, 1, step)
    u, taus = ((255 * S).astype(np.uint8), even) if thresholds == "even" else (S, 10 ** (7 * even - 7))
    far = np.array([np.inf, np.inf, S.shape[1] - 1, S.shape[0] - 1])
    truth = whole_pixels(boxes, S.shape)
    levels, level_of = np.unique(np.trunc(taus * u.max()) if thresholds == "even" else taus * u.max(), return_inverse=True)
    best = []
    for level in levels:
        best.append(overlaps(np.minimum(contour_boxes(u > level, contours == "largest"), far), truth, edge=1).max())
    return {"hits": (np.array(deltas)[:, None] <= np.array(best)[level_of]).astype(np.int64).ravel()}
