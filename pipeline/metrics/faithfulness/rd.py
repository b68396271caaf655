"""Relative drop (Finer-CAM supplement eq. 10): the class's loss beyond its rival's when the top pixels of the map are masked.

A difference of probabilities, not a ratio. The rival is the same for every method: the class of the next highest logit, or by weights.
"""

from typing import Literal

import numpy as np

from pipeline.families import Removed, Undefined, metric

SHARES = (5, 10)  # per cent, for counts without rounding


def top(size, *, fill: str = "mean"):
    return Removed(tuple(-(-r * size[0] * size[1] // 100) for r in SHARES), fill)


@metric(perturbations={"masked": top}, columns={"rd_05": "higher", "rd_10": "higher"}, family="faithfulness", constant=True, version=2)
def rd(p, d, masked, *, reference: Literal["logit_rank", "weight_cosine"] = "logit_rank"):
    rival = ("logit_rank", "weight_cosine").index(reference)
    if np.isnan(d[rival]):
        raise Undefined(f"no rival by {reference}")
    return (p[0] - masked.p[:, 0]) - (d[rival] - masked.d[:, rival])
