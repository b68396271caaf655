"""Gradient SHAP (Erion et al. 2021, eq. 2, with noise as captum adds it): expected gradients over random baselines."""

from pipeline.families import Amount, Count, Walk, Whole, path, rectify, spans


@path
def gradient_shap(x, normal, uniform, *, samples: Count = 20, spread: Amount = 0.09, baselines: Whole = 20):
    """ReLU of the sum over colours of E[(x' - b) grad(b + a (x' - b))], a uniform in [0, 1), x' = x + noise.

    b is one of `baselines` standard normal images or the mean colour, each as likely; as every image is drawn afresh, so is the bank.
    """

    def points():
        for _ in range(samples):
            noisy = x + spread * spans(x) * normal()
            b = normal() * (uniform() * (baselines + 1) >= 1)
            yield b + uniform() * (noisy - b), (noisy - b) / samples

    return Walk(points(), lambda gradient, weight: (weight * gradient).sum(1), lambda total: rectify(total, "relu"))
