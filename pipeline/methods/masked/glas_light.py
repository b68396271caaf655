"""GLAS by light alone (Gaussian light and shadow, eq. 1 and 3 without f_s)."""

from pipeline.families import Count, gaussians, light, masked

PRESETS = {"fine": {}, "ilsvrc": {"sigma_light": 5.0, "sigma_map": 6.0}}


@masked({"light": light}, presets=PRESETS, rendering=gaussians)
def glas_light(light, *, k: Count = 15):
    """f_l on the k x k grid: the class seen in a spot of light; sigmas in units of side / 15."""
    return light.prob.relu().view(-1, k, k)
