"""How a stored map becomes an image: `render` in the maps table."""

import numpy as np

from pipeline.refusal import Refusal


def upsample(maps, size: tuple[int, int], how: str):
    """Maps [B h w] (a torch tensor) at `size` (H, W), unnormalised.

    bilinear  between cell centres (align_corners=False), for maps on a network's grid
    area      every stored cell is the mean of a block of pixels, so it is painted as that block

    Raises:
        Refusal: for any other way.
    """
    from torch.nn.functional import interpolate

    if how == "bilinear":
        return interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    if how == "area":
        return interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]
    raise Refusal(f"unknown render {how!r}; known: area, bilinear")


def reduce(maps, size: int):
    """Pixel-level maps [B H W] averaged down to at most `size` cells a side."""
    from torch.nn.functional import adaptive_avg_pool2d

    height, width = maps.shape[1:]
    return adaptive_avg_pool2d(maps[:, None], (min(size, height), min(size, width)))[:, 0]


def unit(maps: np.ndarray) -> np.ndarray:
    """Min-max to [0, 1] (Opti-CAM eq. 4); a map that is constant but for rounding becomes zero, whatever its scale."""
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low) if high - low > 1e-7 * max(abs(low), abs(high)) else np.zeros_like(maps)
