"""Facts about RISE."""

import math

import torch
import torch.nn.functional as F

from pipeline.tables.identity import seed_of

DEFAULTS = {"masks": 8000, "cells": 7, "p": 0.5, "border": "repeat", "fill": "black"}  # RISE's general setting, as TorchRay has it too
SHORT = "rise(masks=20)"
TINY = "rise(masks=10)"
NOISY = "rise(masks=20)"
COST = "1F + 20F"


def repeated(grid, side):
    return F.interpolate(grid[None, None], (side, side), mode="bilinear")[0, 0]


def mirrored(grid, side):
    """As the released code enlarges its grids, by scikit-image."""
    from skimage.transform import resize

    return torch.from_numpy(resize(grid.numpy(), (side, side), order=1, mode="reflect", anti_aliasing=False))


def reference(slow, enlarged=repeated, colour=0.0):
    draws, step = torch.Generator().manual_seed(seed_of(0, "bernoulli", 40, 5, 0.4)), math.ceil(slow.side / 5)
    grids = (torch.rand(40, 5, 5, generator=draws) < 0.4).double()
    tops, lefts = (torch.randint(step, (40,), generator=draws) for _ in range(2))
    total = torch.zeros(slow.side, slow.side).double()
    for grid, top, left in zip(grids, tops.tolist(), lefts.tolist(), strict=True):
        large = enlarged(grid, 6 * step)
        mask = large[top : top + slow.side, left : left + slow.side]
        total += slow.p(colour + (slow.x - colour) * mask) * mask
    return total / (40 * 0.4)


REFERENCES = {
    "rise(masks=40,cells=5,p=0.4)": reference,
    "rise(masks=40,cells=5,p=0.4,border=mirror,fill=mean)": lambda slow: reference(slow, mirrored, slow.mean),
}
PASSES = {"rise(masks=33)": (33, 0)}
