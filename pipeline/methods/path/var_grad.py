"""VarGrad (Adebayo et al. 2018): the variance of the gradient's magnitude over the noisy copies that smooth_grad takes."""

from pipeline.families import Amount, Count, noisy, path


@path(noise="smooth_grad")
def var_grad(x, normal, *, samples: Count = 50, spread: Amount = 0.25):
    """E[s^2] - E[s]^2, s as in `gradient`. With the settings of smooth_grad both come from one walk."""
    return noisy(x, normal, samples, spread, lambda moments: (moments[:, 1] - moments[:, 0].square()).clamp(min=0))
