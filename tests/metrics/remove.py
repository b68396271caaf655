"""Facts about removal."""

import hashlib

import numpy as np
import torch

from pipeline.tables.identity import seed_of

# 1, 4, 8, 11 and 14 pixels less; without half of them the label, 0, is no longer the answer unless they were drawn at random
HAND = {
    "remove": {"remove_10": 1, "remove_30": 1, "remove_50": 0, "remove_90": 0, "remove_random_10": 1, "remove_random_90": 1},
}
COSTS = {("remove",): 5 + 5 + 1}
SILENT = ("no label",)
TIES = True


def reference(slow):
    """Without the top of the map, and without as many pixels drawn from the image's seed."""
    count = slow.S.numel()
    drawn = np.random.default_rng(seed_of(0, "removed", slow.key, hashlib.sha256(slow.image.tobytes()).hexdigest()))
    orders = slow.order(), torch.from_numpy(drawn.permutation(count))
    removed = [slow.removed(order[: int(k * count)], slow.blur31()) for order in orders for k in (0.1, 0.3, 0.5, 0.7, 0.9)]
    return tuple(float(slow.p(x).argmax() == slow.label) for x in removed)


REFERENCES = {"remove": reference}
