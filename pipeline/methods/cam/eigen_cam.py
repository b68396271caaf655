"""Eigen-CAM (Muhammad and Yeasin 2020): activations projected on their first principal component; no class enters."""

import torch

from pipeline.families import cam


@cam
def eigen_cam(A):
    """The component's sign is arbitrary: it is turned so that the largest magnitude is positive.

    The Gram matrix of the h*w cells is far smaller than the K channels; its first eigenvector, times the singular value, is the
    projection. In double precision, since the Gram matrix squares the condition number.
    """
    cells = A.flatten(2).double()
    cells = cells - cells.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(cells.mT @ cells)
    projection = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    sign = torch.where(projection.amax(1) >= -projection.amin(1), 1.0, -1.0)
    return (projection * sign[:, None]).view(A.shape[0], *A.shape[2:]).to(A.dtype)
