"""Remove-and-classify (CALM section 5.3): accuracy without the top k % of the map's pixels, over that without as many at random."""

import numpy as np

from pipeline.families import Removed, metric

K = (10, 30, 50, 70, 90)


def top(size, *, fill: str = "blur31"):
    return Removed(tuple(k * size[0] * size[1] // 100 for k in K), fill)


def some(size, *, fill: str = "blur31"):
    return Removed(tuple(k * size[0] * size[1] // 100 for k in K), fill, order="random")


def ratio(right, right_at_random):
    """Images still right [5], without the top and without random pixels -> R_k; NaN where none is right at random."""
    return np.divide(right, right_at_random, out=np.full(len(K), np.nan), where=right_at_random > 0)


COLUMNS = {f"remove_and_classify_{k}": "lower" for k in K}


@metric(corpus_level=ratio, perturbations={"masked": top, "at_random": some}, columns=COLUMNS, family="faithfulness", constant=True)
def remove_and_classify(label, masked, at_random):
    return {"right": (masked.top == label).astype(np.int64), "right_at_random": (at_random.top == label).astype(np.int64)}
