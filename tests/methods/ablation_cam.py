"""Facts about Ablation-CAM."""

import torch

DEFAULTS = {}
COST = "1F + K f"


@torch.no_grad()
def reference(slow):
    A, total = slow.A(), 0
    whole = float(slow.direction @ slow.network[6:](A[None])[0])
    for channel in range(len(A)):
        without = A.clone()
        without[channel] = 0
        total = total + (whole - float(slow.direction @ slow.network[6:](without[None])[0])) / abs(whole) * A[channel]
    return total.relu()


REFERENCES = {"ablation_cam": reference}
PASSES = {"ablation_cam": (0, 12)}
