"""Grad-CAM (Selvaraju et al. 2017, eq. 1-2): channels weighted by the mean of their gradient."""

from pipeline.families import cam


@cam
def grad_cam(A, dA):
    return (dA.mean((2, 3), keepdim=True) * A).sum(1)
