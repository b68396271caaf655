"""Facts about RGLAS."""

import itertools

import torch

from pipeline.maps.render import unit
from tests.methods import glas

DEFAULTS = glas.DEFAULTS | {"t1": 0.8, "t2": 5.0, "rounds": 10}  # algorithm 1: t1 and t2; it has no limit to its rounds, ten is ours
SHORT = "rglas(k=4,rounds=2)"
TINY = "rglas(k=3,rounds=2)"
COST = "1F + 32F"
AT_MOST = "1F + 66F"  # 2 rounds of 2 k^2 + 1


def reference(slow):
    x, points, total = slow.x, set(itertools.product(range(4), repeat=2)), 0
    for _ in range(3):
        S = torch.from_numpy(unit(glas.glas(slow, x, sorted(points)).numpy()))
        total = total + S
        points = {(i, j) for i, j in points if S[int((i + 0.5) * slow.side / 4), int((j + 0.5) * slow.side / 4)] <= 0.8}
        x = x * (1 - S)
        if not points or (S.mean() / max(slow.p(x), 1e-12)) ** 0.5 >= 5:
            break
    return total


REFERENCES = {"rglas(k=4,rounds=3)": reference}
PASSES = {}  # they depend on the image; test_masked has a test of its own
