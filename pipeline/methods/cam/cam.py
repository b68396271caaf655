"""CAM (Zhou et al. 2016, eq. 2): channels weighted by the linear classifier behind the pooling."""

from pipeline.families import cam as family


@family
def cam(A, weights):
    return (weights[:, :, None, None] * A).sum(1)
