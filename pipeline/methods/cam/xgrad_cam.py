"""XGrad-CAM (Fu et al. 2020, eq. 8): channels weighted by their gradient, averaged in proportion to the activation."""

from pipeline.families import cam


@cam
def xgrad_cam(A, dA, *, eps: float = 1e-7):
    weights = (A * dA).sum((2, 3), keepdim=True) / (A.sum((2, 3), keepdim=True) + eps)
    return (weights * A).sum(1)
