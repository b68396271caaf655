"""Facts about occlusion."""

import itertools

import torch

DEFAULTS = {"window": 32, "stride": 5, "fill": "mean"}  # 44 x 44 positions explain the time that GLAS reports for it
SHORT = "occlusion(stride=16)"
TINY = "occlusion(stride=32)"
COST = "1F + 9F"


def reference(slow):
    starts, clean, side = [0, 5, 10, 15, 20, 24], slow.p(slow.x), slow.side
    total, count = torch.zeros(side, side).double(), torch.zeros(side, side).double()
    for top, left in itertools.product(starts, repeat=2):
        x = slow.x.clone()
        x[:, top : top + 8, left : left + 8] = slow.mean
        total[top : top + 8, left : left + 8] += clean - slow.p(x)
        count[top : top + 8, left : left + 8] += 1
    return total / count


REFERENCES = {"occlusion(window=8,stride=5)": reference}
PASSES = {"occlusion(window=8,stride=5)": (6**2, 0)}
