"""Facts about the area over the perturbation curve."""

import torch

# of four patches: a quarter, half, three quarters, then all of 0.5, and 1 - 9/16, 1 - 1/4, 1 - 1/16, 1 of 0.8
HAND = {"aopc(patch=2)": {"aopc": (0.125 + 0.25 + 0.375 + 7 * 0.5) / 10, "aopc_pred": 0.8 * (7 / 16 + 12 / 16 + 15 / 16 + 7) / 10}}
COSTS = {("aopc",): 10 + 1}
TIES = True


def reference(slow, patch=8, count=10):
    p, sums = slow.p(slow.x), slow.S.unfold(0, patch, patch).unfold(1, patch, patch).sum((2, 3))
    x, low, drops = slow.x.clone(), slow.x.min(), []
    for place in slow.order(sums)[:count].tolist():
        i, j = divmod(place, sums.shape[1])
        x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch] = low
        drops.append(p - slow.p(x))
    drop = torch.stack(drops).mean(0)
    return drop[slow.c], drop[slow.predicted]


REFERENCES = {"aopc(patch=8)": reference}
