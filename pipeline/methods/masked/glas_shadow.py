"""GLAS by shadow alone (Gaussian light and shadow, eq. 2 and 3 without f_l)."""

from pipeline.families import Amount, Count, gaussians, masked, shadow

PRESETS = {"fine": {}, "ilsvrc": {"sigma_map": 6.0}}


@masked({"shadow": shadow}, presets=PRESETS, rendering=gaussians)
def glas_shadow(clean, shadow, *, k: Count = 15, lam: Amount = 1e-5):
    """f_s on the k x k grid: how a spot of shadow changes the class; sigmas in units of side / 15."""
    return ((clean.prob[:, None] - shadow.prob).abs() + lam).view(-1, k, k)
