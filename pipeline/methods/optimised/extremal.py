"""Extremal perturbation (Fong et al. 2019, eq. 5 and 7): the smooth mask of a given area that best preserves the class."""

from math import ceil
from typing import Annotated, Literal

import torch

from pipeline.families import Amount, Count, Descent, Later, Positive, Range, Share, optimised


def off_area(masks, areas):
    """Mean square of each sorted mask less r, summed over the areas; masks [n R N] -> [n].

    All masks begin as one plain of ties: these go by place, for rounding would otherwise decide which cells are pushed down first.
    """
    order = (masks.detach() * 4096).round().sort(dim=2, stable=True).indices
    ranks = torch.arange(masks.shape[2], device=masks.device)
    r = torch.stack([ranks >= int(masks.shape[2] * (1 - area)) for area in areas]).to(masks)
    return (masks.gather(2, order) - r).square().mean(2).sum(1)


def between(pyramid, masks):
    """Levels [n L 3 H W] mixed as masks [n R H W] say, from the first at 0 to the last at 1 -> [n R 3 H W]."""
    level = masks[:, :, None].clamp(0, 1) * (pyramid.shape[1] - 1)
    low = level.detach().floor().clamp(max=pyramid.shape[1] - 2)
    index = low.long().expand(-1, -1, 3, -1, -1)
    return torch.lerp(pyramid.gather(1, index), pyramid.gather(1, index + 1), level - low)


@optimised(grid="pixels", rendering="area")
def extremal(
    pixels, mean, blur, spread, *, areas: tuple[Share, ...] = (0.1,), steps: Count = 800, lr: Positive = 0.01, cell: Count = 7, sigma: Positive = 21.0,
    away: Positive = 20.0, levels: Annotated[int, Range(2)] = 8, weight: Amount = 300.0, growth: Positive = 1.0035,
    smooth: Amount = 0.0, border: Later[Literal["repeat", "zero"]] = "repeat",
):  # fmt: skip
    """max over m of <d, y(x blurred where m is low)> - weight growth^t mean (sort(m) - r)^2, r = 1 on `area` of it, else 0 (eq. 7).

    Every other step sees the image mirrored. Several areas are optimised apart and their masks added. The authors'
    pointing game took areas=(0.025,0.05,0.1,0.2) and smooth=0.09: a last Gaussian blur whose std is that share of the side. Their
    code blurs as if zeros lay beyond the border, of the normalised image as of the map: `border=zero`. Its N steps are N - 1 of these.
    """
    zero = border == "zero"
    size, edge = pixels.shape[2:], round(sigma)
    paint_cells = spread(size, cell, sigma, pixels.device)
    beyond = mean if zero else None
    pyramid = torch.stack([blur(pixels, away * (1 - level / (levels - 1)), beyond=beyond) for level in range(levels)], 1)
    start = pixels.new_ones(len(pixels), len(areas), *(ceil(side / cell) for side in size))

    def canvas(u):
        return paint_cells(u.flatten(0, 1)).unflatten(0, u.shape[:2]).clamp(0, 1)

    def crop(masks):
        return masks[..., edge : edge + size[0], edge : edge + size[1]]

    def map_of(u, *context):
        total = crop(canvas(u)).sum(1)
        return blur(total, smooth * min(size), beyond=0.0 if zero else None) if smooth else total

    def paint(u, step, pyramid):
        masks = canvas(u)
        copies = between(pyramid, crop(masks))
        penalty = weight * growth**step * off_area(masks.flatten(2), areas)
        return copies.flip(4) if step % 2 == 0 else copies, penalty

    return Descent(
        start, (pyramid,), paint, lambda scores, clean: -scores.sum(1), map_of, steps, lr,
        optimiser="sgd", keep="last", settle=lambda u: u.clamp(0, 1), copies=len(areas),
    )  # fmt: skip
