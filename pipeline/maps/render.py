"""The way from a stored map to an image: `render` in the maps table."""

import re

import numpy as np

from pipeline.refusal import Refusal

FLAT = 2**-18  # a map of a smaller range, as a share of its largest magnitude, is constant: drawing leaves rounding of less


def upsample(maps, size: tuple[int, int], how: str):
    """Maps [B h w] (a torch tensor) at `size` (H, W), unnormalised.

    bilinear[:<part>]  between cell centres (align_corners=False), for maps on a network's grid; over a part of the image, see `over_part`
    bicubic   likewise by cubics, which may leave the cells' range
    corners   bilinear with the centres of the outer cells on the image's border (align_corners=True)
    area      every stored cell is the mean of a block of pixels, so it is painted as that block
    gaussian:<sigma>[:norm]  a Gaussian in every cell, see `_gaussians`

    Raises:
        Refusal: for any other way.
    """
    from torch.nn.functional import interpolate

    if how in ("bilinear", "corners"):
        return interpolate(maps[:, None], size, mode="bilinear", align_corners=how == "corners")[:, 0]
    if how == "bicubic":
        return interpolate(maps[:, None], size, mode="bicubic", align_corners=False)[:, 0]
    if how == "area":
        return interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]
    kind, _, rest = how.partition(":")
    if kind == "bilinear" and (part := part_of(how)):
        return _over_part(maps, size, part)
    sigma, _, norm = rest.partition(":")
    if kind == "gaussian" and sigma and norm in ("", "norm"):
        return _gaussians(maps, size, float(sigma), norm == "norm")
    raise Refusal(f"unknown render {how!r}; known: area, bicubic, bilinear, bilinear:<part>, corners, gaussian:<sigma>")


def over_part(how: str, part: tuple[int, int, int, int], size: tuple[int, int]) -> str:
    """`how` for a grid that lies over a part (top, left, bottom, right) of an image of `size` pixels: `bilinear:0,0,224,224/239,239`.

    The cells share the part as they share a whole image. Beyond it every pixel has the value of the nearest one inside, as pixels beyond
    the outermost centres have it anyway: a constant map stays constant and a difference of maps a difference, which zeros would not leave.
    """
    return f"{how}:{','.join(map(str, part))}/{','.join(map(str, size))}"


def part_of(how: str) -> tuple[float, float, float, float] | None:
    """The part of the image that `over_part` has written down, as fractions; None where it is the whole image."""
    match = re.fullmatch(r"bilinear:(\d+),(\d+),(\d+),(\d+)/(\d+),(\d+)", how)
    if not match:
        return None
    top, left, bottom, right, height, width = map(int, match.groups())
    return top / height, left / width, bottom / height, right / width


def _over_part(maps, size: tuple[int, int], part: tuple[float, float, float, float]):
    """Between cell centres inside the part; beyond it, the nearest value."""
    import torch

    def weights(side: int, cells: int, start: float, stop: float):
        pixels = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        places = ((pixels - start) / (stop - start) * cells - 0.5).clamp(0, cells - 1)
        return (1 - (places[:, None] - torch.arange(cells)).abs()).relu().to(maps)

    top, left, bottom, right = part
    return weights(size[0], maps.shape[1], top, bottom) @ maps @ weights(size[1], maps.shape[2], left, right).T


def _gaussians(maps, size: tuple[int, int], sigma: float, norm: bool):
    """S(x) = sum_i exp(-|x - mu_i|^2 / sigma^2) f_i / n over the n cells, mu_i their centres (GLAS eq. 3).

    sigma is in units of the shorter side / 15, however many cells there are. Near the border fewer cells are in reach, so S leans
    to the centre; `norm` divides by the kernels' sum in place of n.
    """
    import torch

    height, width = maps.shape[1:]

    def kernel(side: int, cells: int):
        pixels = torch.arange(side, dtype=maps.dtype, device=maps.device) + 0.5
        centres = (torch.arange(cells, dtype=maps.dtype, device=maps.device) + 0.5) * side / cells
        return (-(((pixels[:, None] - centres) / (sigma * min(size) / 15)) ** 2)).exp()

    down, across = kernel(size[0], height), kernel(size[1], width)
    total = down.sum(1)[:, None] * across.sum(1) if norm else height * width
    return down @ maps @ across.T / total


def reduce(maps, size: int):
    """Pixel-level maps [B H W] averaged down to at most `size` cells a side."""
    from torch.nn.functional import adaptive_avg_pool2d

    height, width = maps.shape[1:]
    return adaptive_avg_pool2d(maps[:, None], (min(size, height), min(size, width)))[:, 0]


def sound(map: np.ndarray) -> bool:
    """Whether a map's values are finite, and its range too: that of a map from -3e38 to 3e38 is not."""
    return bool(np.isfinite(map).all() and np.isfinite(map.max() - map.min()))


def unit(maps: np.ndarray) -> np.ndarray:
    """Min-max to [0, 1] (Opti-CAM eq. 4); a map that is constant but for rounding becomes zero, whatever its scale.

    One that is not finite stays so.
    """
    low, high = maps.min(), maps.max()
    flat = np.isfinite(high - low) and high - low <= FLAT * max(abs(low), abs(high))
    return np.zeros_like(maps) if flat else (maps - low) / (high - low)


def units(maps):
    """`unit` of each map of a batch [B h w] (a torch tensor)."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = alike(low, high)
    return ((maps - low) / (high - low).masked_fill(flat, 1)).masked_fill(flat, 0)


def settled(maps, scale):
    """Maps [B h w] that are sums of terms of size `scale` [B] (torch tensors); one that is nothing but their rounding becomes zero."""
    return maps.masked_fill(alike(maps.amin((1, 2)), maps.amax((1, 2)), scale)[:, None, None], 0)


def alike(low, high, scale=0):
    """Whether nothing but rounding lies between `low` and `high`, the ends of values made from numbers of size `scale` (torch tensors)."""
    return (high - low).isfinite() & (high - low <= FLAT * low.abs().maximum(high.abs()).clamp(min=scale))
