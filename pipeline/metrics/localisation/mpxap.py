"""mPxAP (CALM section 5.1): PxAP with the parts in which two classes differ as the object, for every pair, then the mean.

Beside it stands the chance level: the share of positive pixels, the value of a constant map. `cumulative` counts with
each pair the pixels of all pairs before it, as CALM's released evaluation does. Its thresholds are `calm` where those of the paper are `log`,
see `pxap`; and a pixel as near to two points goes to the first of head, back, belly, breast, tail, legs and wings: `ties=parts`.
"""

from typing import Literal

import numpy as np

from pipeline.families import Count, Later, metric
from pipeline.maps.average_precision import average_precision, by_value


def with_chance(positive, negative, *, cumulative: bool = False):
    return average_precision(positive, negative), positive.sum() / (positive.sum() + negative.sum())


@metric(corpus_level=with_chance, columns={"mpxap": "higher", "mpxap_chance": None}, of_pairs=True, version=3)
def mpxap(
    S, raw, truth, *, bins: Count = 1000, thresholds: Literal["even", "log", "calm"] = "even",
    ties: Later[Literal["points", "parts"]] = "points",
):  # fmt: skip
    positive, counted = truth(ties)
    return by_value(S if thresholds == "even" else np.clip(raw, 0, 1), positive, counted, bins, thresholds)
