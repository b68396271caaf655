"""PxAP (wsolevaluation): average precision of the map's pixels, over all pixels of the dataset that count.

Even thresholds see the map after min-max; logarithmic ones, which are CALM's, see it as it came, clipped to [0, 1]. `calm` are logarithmic
ones as its released evaluator has them, which drops the pixels below the lowest. The released evaluators bring masks to size with `nearest=opencv`.
"""

from typing import Literal

import numpy as np

from pipeline.families import Count, Later, metric
from pipeline.maps.average_precision import average_precision, by_value


@metric(corpus_level=average_precision, version=2)
def pxap(
    S, raw, truth, *, bins: Count = 1000, thresholds: Literal["even", "log", "calm"] = "even",
    nearest: Later[Literal["pillow", "opencv"]] = "pillow",
):  # fmt: skip
    positive, counted = truth(nearest)
    return by_value(S if thresholds == "even" else np.clip(raw, 0, 1), positive, counted, bins, thresholds)
