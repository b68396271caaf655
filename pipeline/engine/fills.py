"""The colours that stand in place of masked or removed pixels.

B images, H W pixels
"""

import torch

from pipeline.backbones import Preprocessing
from pipeline.refusal import Refusal

FILLS = ("black", "mean", "min", "blur", "blur11", "blur31")
BLUR = 10 / 224  # standard deviation of `blur` as a share of each side (perturb_explanations: 10 px at 224)


def fill_of(fill: str, pixels: torch.Tensor, prepare: Preprocessing) -> torch.Tensor:
    """The colours of `fill` for pixels in [0, 1], broadcastable to [B 3 H W] and in their space.

    black   zero before normalisation; a number gives another grey level in [0, 1]
    mean    the preparation's mean colour, zero after normalisation: the preparation is affine, so this is the same as multiplying the
            normalised tensor by the mask, as RISE's and the grad-cam package's code do
    min     the smallest number of each image's normalised tensor, in every channel (Quantus calls it black)
    blur    the image under a Gaussian of 10 pixels at 224 whose weights sum to one at the border too
    blur11  RISE's blur: the normalised tensor under its kernel of 11 x 11, zero beyond the border
    blur31  CALM's blur: the normalised tensor under a Gaussian of 31 x 31 pixels, standard deviation 15, mirrored at the border

    Raises:
        Refusal: for any other word.
    """
    if fill in BLURS:
        down, across = (BLURS[fill](side).to(pixels) for side in pixels.shape[2:])
        if fill == "blur":
            return down @ pixels @ across.T
        return prepare.unnormalise(down @ prepare.normalise(pixels) @ across.T)
    if fill == "mean":
        return pixels.new_tensor(prepare.mean).view(1, 3, 1, 1)
    if fill == "min":
        return prepare.unnormalise(prepare.normalise(pixels).amin((1, 2, 3), keepdim=True).expand(-1, 3, 1, 1))
    try:
        level = 0.0 if fill == "black" else float(fill)
    except ValueError:
        level = -1.0
    if not 0 <= level <= 1:
        raise Refusal(f"fill is {fill!r}; it must be {', '.join(FILLS)} or a grey level from 0 to 1")
    return pixels.new_full((1, 3, 1, 1), level)


def _gaussian(distance: torch.Tensor, sigma: float) -> torch.Tensor:
    """Weights that fall with the distance and sum to one along the last axis."""
    weights = (-(distance**2) / (2 * sigma**2)).exp()
    return weights / weights.sum(-1, keepdim=True)


def _smoothing(side: int) -> torch.Tensor:
    """`blur` along one axis as a matrix [side side]."""
    pixels = torch.arange(side)
    return _gaussian(pixels - pixels[:, None], BLUR * side)


def _rise(side: int) -> torch.Tensor:
    """`blur11` along one axis: a delta smoothed (sigma 5, up to 20 pixels away) within 11 pixels whose border mirrors, edge pixel included.

    Weight that leaves the 11 pixels comes back, so that the kernel sums to one and is flatter than a Gaussian that is cut off (RISE's `gkern`).
    """
    reach = torch.arange(-20, 21).double()
    target = (5 + reach.long()) % 22
    kernel = torch.zeros(11).double().index_add_(0, torch.minimum(target, 21 - target), _gaussian(reach, 5))
    offset = torch.arange(side) - torch.arange(side)[:, None]
    return torch.where(offset.abs() <= 5, kernel[(offset + 5).clamp(0, 10)], 0)


def _calm(side: int) -> torch.Tensor:
    """`blur31` along one axis, the mirrored border already in it; the edge pixel is not repeated."""
    reach, period = torch.arange(-15, 16), max(2 * (side - 1), 1)
    target = (torch.arange(side)[:, None] + reach) % period
    weights = _gaussian(reach.double(), 15).expand(side, -1)
    return torch.zeros(side, side).double().scatter_add_(1, torch.minimum(target, period - target).clamp(max=side - 1), weights)


BLURS = {"blur": _smoothing, "blur11": _rise, "blur31": _calm}
