"""GLAS by light alone (Gaussian light and shadow, eq. 1 and 3 without f_s)."""

from pipeline.families import Count, Positive, Spots, gaussians, masked

RECIPES = {"light": lambda k, sigma_light: Spots(k, sigma_light)}
PRESETS = {"fine": {}, "ilsvrc": {"sigma_light": 5.0, "sigma_map": 6.0}}


@masked(RECIPES, presets=PRESETS, rendering=gaussians)
def glas_light(light, *, k: Count = 15, sigma_light: Positive = 3.0, sigma_map: Positive = 3.0, kernel_norm: bool = False):
    """f_l on the k x k grid: the class seen in a spot of light; sigmas in units of side / 15."""
    return light.prob.relu().view(-1, k, k)
