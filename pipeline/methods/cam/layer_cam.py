"""Layer-CAM (Jiang et al. 2021, eq. 5-6): activations times positive gradients, cell by cell."""

from pipeline.families import cam


@cam
def layer_cam(A, dA):
    return (dA.relu() * A).sum(1)
