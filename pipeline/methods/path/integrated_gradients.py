"""Integrated gradients (Sundararajan et al. 2017, eq. 1): the explained scalar's gain from a mean-coloured image, colour by colour."""

from typing import Literal

import numpy as np

from pipeline.families import Count, Walk, magnitude, path, rectify


@path
def integrated_gradients(
    x, *, steps: Count = 50, form: Literal["canonical", "calm"] = "canonical", norm: Literal["relu", "minmax"] = "relu"
):
    """sum over colours of (x - x0) int_0^1 grad(x0 + a (x - x0)) da, x0 = 0 in normalised space, by Gauss-Legendre quadrature.

    The paper leaves the sign open. As for the CAM family, evidence for the target is kept; with `norm=minmax` the values add up to
    y(x) - y(x0). `form=calm` is the baseline of CALM: 1/n sum_{t=0..n} max over colours |grad(t/n x)|, n + 1 points, no factor x.
    """
    if form == "calm":
        return Walk(((t / steps * x, 1 / steps) for t in range(steps + 1)), magnitude)
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    points = (((1 + float(node)) / 2 * x, float(weight) / 2 * x) for node, weight in zip(nodes, weights, strict=True))
    return Walk(points, lambda gradient, weight: (weight * gradient).sum(1), lambda total: rectify(total, norm))
