"""PxAP (wsolevaluation; E16): average precision of the map's pixels, over all pixels of the dataset.

Bins are [i/bins, (i+1)/bins), and one for 1; the precision of a bin counts for the recall it adds (right-end rule, no interpolation).
With `thresholds=log` the bins' lower ends are 0 and `bins` values spaced evenly in the logarithm from 1e-7 to 1, as CALM's maps need it.
"""

from typing import Literal

import numpy as np

from pipeline.families import metric


def average_precision(positive, negative):
    """Histograms [bins + 1] of the map on the object and off it -> AP, a fraction; NaN where nothing is positive."""
    hits, misses = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    seen = hits + misses
    precision = np.divide(hits, seen, out=np.zeros(len(hits)), where=seen > 0)
    return (precision * np.diff(hits, prepend=0)).sum() / hits[-1] if hits[-1] else np.nan


@metric(total=average_precision)
def pxap(S, positive, *, bins: int = 1000, thresholds: Literal["even", "log"] = "even"):
    if thresholds == "log":
        code = np.searchsorted(np.logspace(-7, 0, bins), S, side="right")
    else:
        code = (S * bins).astype(np.int64)
    on, all = (np.bincount(part.ravel(), minlength=bins + 1) for part in (code[positive], code))
    return {"positive": on, "negative": all - on}
