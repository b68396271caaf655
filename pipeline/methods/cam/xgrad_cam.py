"""XGrad-CAM (Fu et al. 2020, eq. 8): channels weighted by their gradient, averaged in proportion to the activation."""

from pipeline.families import Amount, cam


@cam
def xgrad_cam(A, dA, *, eps: Amount = 1e-7):
    weights = (A * dA).sum((2, 3), keepdim=True) / (A.sum((2, 3), keepdim=True) + eps)
    return (weights * A).sum(1)
