"""Opti-CAM (Zhang et al. 2024): the convex combination of channels that best keeps the explained scalar when it masks the image."""

from typing import Literal

import torch

from pipeline.families import Amount, Count, Descent, Later, Positive, optimised

TINY = 1e-7  # a map with a smaller range is constant, and its normalisation zero


def over_range(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high - low > TINY, (maps - low) / (high - low).clamp(min=TINY), 0.0)


def over_max(maps):
    high = maps.amax((1, 2), keepdim=True)
    return torch.where(high.abs() > TINY, maps / torch.where(high.abs() > TINY, high, 1.0), 0.0)


NORMALISE = {"range": over_range, "max": over_max, "sigmoid": torch.sigmoid}  # eq. 16-18
# The loss, from the clean score [n] and those of x * s and x * (1 - s), [n] each; its negative is the paper's F.
LOSS = {
    "mask": lambda clean, inside, outside: -inside,  # eq. 10
    "diff": lambda clean, inside, outside: (clean - inside).abs(),  # eq. 19
    "io_mask": lambda clean, inside, outside: outside - inside,  # eq. A1
    "io_diff": lambda clean, inside, outside: (clean - inside).abs() - (clean - outside).abs(),  # eq. A2
}


def combined(u, pixels, A):
    return torch.einsum("bk,bkhw->bhw", u.softmax(1), A)  # eq. 8


@optimised
def opti_cam(
    pixels, A, draw, *, steps: Count = 100, lr: Positive = 0.1, tolerance: Amount = 1e-10,
    objective: Literal["mask", "diff", "io_mask", "io_diff"] = "mask",
    normalisation: Literal["range", "max", "sigmoid"] = "range",
    scalar: Literal["logit", "margin"] = "logit",
    rectified: Later[bool] = False,
):  # fmt: skip
    """Stored ahead of upsampling and normalising: bilinear and min-max of it is the mask that the network saw with `range`. With `max` and
    `sigmoid` metrics see the min-max of that mask, as they do of every map.

    In double precision up to the mask. A dead channel only scales S, which normalising undoes, so its gradient is zero; in single
    precision it is rounding, which Adam would blow up to steps of full length.

    `rectified` takes ReLU(A) for A, as the authors' code does: nothing else after a ReLU, but something else on a transformer. That code
    returns the map after its last step, so that its N steps are N + 1 of these.
    """
    A = A.relu() if rectified else A

    def paint(u, step, pixels, A):
        s = NORMALISE[normalisation](draw(combined(u, pixels, A)))[:, None]
        masks = [s, 1 - s] if objective.startswith("io") else [s]
        return torch.stack([pixels * mask.float() for mask in masks], 1), 0.0

    def loss(scores, clean):
        return LOSS[objective](clean, scores[:, 0], scores[:, -1])

    start, copies = torch.full_like(A[:, :, 0, 0], 0.5, dtype=torch.float64), 2 if objective.startswith("io") else 1
    return Descent(start, (pixels, A.double()), paint, loss, combined, steps, lr, scalar=scalar, tolerance=tolerance, copies=copies)
