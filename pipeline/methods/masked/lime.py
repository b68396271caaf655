"""LIME (Ribeiro et al. 2016, eq. 1-2): a linear model of the probability on which superpixels are there."""

import torch

from pipeline.families import Count, Fraction, Positive, Segments, masked


@masked({"copies": Segments}, grid="pixels", fill=None)
def lime(
    copies,
    *,
    samples: Count = 1000,
    kernel: Count = 4,
    max_dist: Positive = 200.0,
    ratio: Fraction = 0.2,
    width: Positive = 0.25,
    alpha: Positive = 1.0,
):
    """Each pixel has its superpixel's coefficient, rectified. Pixels that a copy leaves out show the mean colour of their superpixel.

    A copy weighs sqrt(exp(-D^2 / width^2)), D its cosine distance from the whole image: 1 - sqrt(share of superpixels kept).
    """
    bits, labels = copies.geometry.bits.double(), copies.geometry.labels
    distance = 1 - (bits.sum(2) / copies.geometry.number[:, None]).sqrt()
    coefficients = _ridge(bits, copies.prob.double(), (-(distance**2) / (2 * width**2)).exp(), alpha)
    return coefficients.gather(1, labels.flatten(1)).view(labels.shape).relu().float()


def _ridge(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor, alpha: float) -> torch.Tensor:
    """Weighted ridge regression with an intercept that is not penalised: z [B N S], y and weights [B N] -> coefficients [B S].

    Those of a constant y are zero: solved for, they would be the rounding of its mean.
    """
    constant = (y == y[:, :1]).all(1, keepdim=True)
    share = (weights / weights.sum(1, keepdim=True))[..., None]
    z, y = z - (share * z).sum(1, keepdim=True), y[..., None] - (share * y[..., None]).sum(1, keepdim=True)
    weighted = (weights[..., None] * z).mT
    penalty = alpha * torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    return torch.linalg.solve(weighted @ z + penalty, weighted @ y)[..., 0].masked_fill(constant, 0)
