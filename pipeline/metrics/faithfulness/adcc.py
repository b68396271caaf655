"""ADCC (Poppi et al. 2021): the harmonic mean of coherency, 1 - complexity and 1 - average drop of the predicted class.

The image is multiplied by its map in pixel space; the released code multiplies the normalised image: `fill=mean`.
"""

import numpy as np

from pipeline.families import Later, Remapped, dimmed, metric


def again(*, fill: Later[str] = "black"):
    return Remapped(dimmed(fill=fill))


@metric(perturbations={"dimmed": dimmed, "again": again}, family="faithfulness", constant=True)
def adcc(S, p, dimmed, again):
    coherency = (1 + np.corrcoef(S.ravel(), again[0].ravel())[0, 1]) / 2 if S.any() and again[0].any() else 0.0
    drop = max(p[1] - dimmed.p[0, 1], 0) / max(p[1], 1e-12)
    parts = np.array([coherency, 1 - S.mean(), 1 - drop])
    return 3 / (1 / parts).sum() if parts.min() > 0 else 0.0
