"""Ablation-CAM (Desai and Ramaswamy 2020, eq. 4): channels weighted by the loss of the logit without them."""

from pipeline.families import masked, settled


@masked(fill=None)
def ablation_cam(A, clean, drops):
    """w_k = (y - y without k) / |y|; the paper divides by y, which turns the map over where y is negative."""
    weights = drops / clean.logit.abs().clamp(min=1e-12)[:, None]
    terms = weights[:, :, None, None] * A
    return settled(terms.sum(1).relu(), terms.abs().sum(1).amax((1, 2)))
