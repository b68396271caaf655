"""PxAP (wsolevaluation): average precision of the map's pixels, over all pixels of the dataset that count.

Even thresholds see the map after min-max; logarithmic ones, which are CALM's, see it as it came, clipped to [0, 1].
"""

from typing import Literal

import numpy as np

from pipeline.families import Count, metric
from pipeline.maps.average_precision import average_precision, by_value


@metric(corpus_level=average_precision, version=2)
def pxap(S, raw, positive, counted, *, bins: Count = 1000, thresholds: Literal["even", "log"] = "even"):
    return by_value(S if thresholds == "even" else np.clip(raw, 0, 1), positive, counted, bins, thresholds)
