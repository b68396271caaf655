"""Facts about RISE."""

import math

import torch
import torch.nn.functional as F

from pipeline.tables.identity import seed_of

DEFAULTS = {"masks": 8000, "cells": 7, "p": 0.5, "fill": "black"}  # RISE's general setting, as TorchRay has it too
SHORT = "rise(masks=20)"
TINY = "rise(masks=10)"
NOISY = "rise(masks=20)"
COST = "1F + 20F"


def reference(slow):
    draws, step = torch.Generator().manual_seed(seed_of(0, "bernoulli", 40, 5, 0.4)), math.ceil(slow.side / 5)
    grids = (torch.rand(40, 5, 5, generator=draws) < 0.4).double()
    tops, lefts = (torch.randint(step, (40,), generator=draws) for _ in range(2))
    total = torch.zeros(slow.side, slow.side).double()
    for grid, top, left in zip(grids, tops.tolist(), lefts.tolist(), strict=True):
        large = F.interpolate(grid[None, None], (6 * step, 6 * step), mode="bilinear")[0, 0]
        mask = large[top : top + slow.side, left : left + slow.side]
        total += slow.p(slow.x * mask) * mask
    return total / (40 * 0.4)


REFERENCES = {"rise(masks=40,cells=5,p=0.4)": reference}
PASSES = {"rise(masks=33)": (33, 0)}
