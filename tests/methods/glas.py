"""Facts about GLAS, and the formula that its variants share."""

import itertools

import torch

LAM = 1e-5  # printed as 10^5, with which f_s would be constant
# GLAS, fine-grained experiments, in units of side / 15
DEFAULTS = {"k": 15, "sigma_light": 3.0, "sigma_shadow": 3.0, "sigma_map": 3.0, "kernel_norm": False, "lam": LAM, "fill": "black"}
SHORT = "glas(k=4)"
TINY = "glas(k=3)"
COST = "1F + 32F"


def gaussian(row, column, sigma, factor, side):
    at = torch.arange(side).double() + 0.5
    return (-((at[:, None] - row) ** 2 + (at - column) ** 2) / (factor * sigma**2)).exp()


def glas(slow, x=None, points=None, light=True, shadow=True, k=4, sigmas=(3, 3, 3)):
    """Eq. 3 by its double sum, pixels by points; sigmas in units of side / 15."""
    x, side = slow.x if x is None else x, slow.side
    sigma_l, sigma_s, sigma_map = (sigma * side / 15 for sigma in sigmas)
    total = torch.zeros(side, side).double()
    for i, j in points if points is not None else itertools.product(range(k), repeat=2):
        centre = ((i + 0.5) * side / k, (j + 0.5) * side / k)
        f_l = slow.p(x * gaussian(*centre, sigma_l, 2, side)) if light else 1
        f_s = abs(slow.p(x) - slow.p(x * (1 - gaussian(*centre, sigma_s, 2, side)))) + 1e-5 if shadow else 1
        total += gaussian(*centre, sigma_map, 1, side) * max(f_l * f_s, 0)
    return total / k**2


REFERENCES = {"glas(k=4)": glas, "glas(k=4,preset=ilsvrc)": lambda slow: glas(slow, sigmas=(5, 3, 6))}
PASSES = {"glas": (2 * 15**2, 0)}
