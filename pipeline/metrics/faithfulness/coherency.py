"""Coherency (ADCC, Poppi et al. 2021): how alike the map and the map of the image times it are: (1 + Pearson) / 2, 0 where flat."""

import numpy as np

from pipeline.families import Later, Remapped, dimmed, metric


def again(*, fill: Later[str] = "black"):
    return Remapped(dimmed(fill=fill))


@metric(perturbations={"again": again}, family="faithfulness", constant=True)
def coherency(S, again):
    return (1 + np.corrcoef(S.ravel(), again[0].ravel())[0, 1]) / 2 if S.any() and again[0].any() else 0.0
