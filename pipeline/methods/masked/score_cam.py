"""Score-CAM (Wang et al. 2020; Opti-CAM eq. 3): channels weighted by the logit of the image that each lets through."""

from typing import Literal

from pipeline.families import Channels, Even, Later, masked, settled


def _black(score_norm):
    """The baseline f(x_b): constant over channels, so that the softmax does not see it and its pass is not spent."""
    return Even(0.0) if score_norm == "none" else None


@masked({"copies": Channels, "black": _black}, version=2)
def score_cam(A, copies, black, *, score_norm: Literal["softmax", "none", "prob"] = "softmax", align_corners: Later[bool] = False):
    """S = relu(sum_k w_k A_k), w = softmax_k(u) or u, with u_k = <d, y(x m_k)> - <d, y(x_b)> and m_k = n(up(A_k)).

    `prob` weights channels by <d, p(x m_k)>, as the authors' code does, which also masks with `fill=mean`. The grad-cam package, and
    Finer-CAM's code with it, enlarge channels with `align_corners` and mask with `fill=mean`.
    """
    if score_norm == "prob":
        weights = copies.prob
    else:
        weights = copies.logit.softmax(1) if score_norm == "softmax" else copies.logit - black.logit
    terms = weights[:, :, None, None] * A
    return settled(terms.sum(1).relu(), terms.abs().sum(1).amax((1, 2)))
