"""BoxAcc (Opti-CAM A5): images whose best box overlaps a true one by delta; the best threshold for the dataset, mean over delta.

The boxes are those of all connected parts above a threshold; `largest` keeps one. Thresholds run from 0 to 1 in steps of `step`.
"""

from typing import Literal

import numpy as np

from pipeline.families import Share, metric
from pipeline.maps.boxes import largest, overlaps, parts

DELTAS = np.array([0.3, 0.5, 0.7])


def best_threshold(hits, n):
    """Hits [D T] in a row, n images -> mean over D of the best accuracy over T."""
    return (hits.reshape(len(DELTAS), -1).max(1) / n).mean()


@metric(corpus_level=best_threshold)
def box_acc(S, boxes, *, step: Share = 0.01, components: Literal["all", "largest"] = "all"):
    size = np.array([*S.shape[::-1], *S.shape[::-1]])
    best = []
    for threshold in np.arange(0, 1, step):
        candidates = parts(threshold < S) / size if components == "all" else largest(threshold < S)[1][None]
        best.append(overlaps(candidates, boxes).max())
    return {"hits": (DELTAS[:, None] <= np.array(best)).astype(np.int64).ravel()}
