"""Grad-CAM++ (Chattopadhay et al. 2018, eq. 19): channels weighted by their positive gradients, each scaled by alpha."""

import torch

from pipeline.families import Amount, cam


@cam
def grad_cam_pp(A, dA, *, eps: Amount = 0.0):
    """alpha = g^2 / (2 g^2 + g^3 sum(A)), zero where the denominator is.

    Both sides are divided by g^2 where `eps` is 0: g^3 underflows on real heads. `eps` = 1e-6 is the released code of
    the grad-cam package, where it outweighs g^2 and changes the map.
    """
    total = A.sum((2, 3), keepdim=True)
    numerator = dA**2 if eps else torch.ones_like(dA)
    denominator = numerator * (2 + total * dA) + eps
    alpha = torch.where(denominator == 0, 0, numerator / torch.where(denominator == 0, 1, denominator))
    return ((alpha * dA.relu()).sum((2, 3), keepdim=True) * A).sum(1)
