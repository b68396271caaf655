"""GLAS (Gaussian light and shadow, eq. 1-3): the class in a spot of light, times its loss in a spot of shadow."""

from pipeline.families import Amount, Count, gaussians, light, masked, shadow

PRESETS = {"fine": {}, "ilsvrc": {"sigma_light": 5.0, "sigma_map": 6.0}}


@masked({"light": light, "shadow": shadow}, presets=PRESETS, rendering=gaussians)
def glas(clean, light, shadow, *, k: Count = 15, lam: Amount = 1e-5):
    """f_l f_s on the k x k grid, rectified; drawing it with Gaussians of sigma_map is eq. 3.

    Sigmas are in units of side / 15 whatever k. lam is printed as 10^5, which would make f_s constant; 10^-5 agrees with the tables.
    """
    f_l, f_s = light.prob, (clean.prob[:, None] - shadow.prob).abs() + lam
    return (f_l * f_s).relu().view(-1, k, k)
