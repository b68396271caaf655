"""Soft pictures: Gaussian blur, and coarse cells spread over pixels.

n images, h w cells, H W pixels, H' W' pixels of the canvas, T cells in reach
"""

from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F


def smoothed(images: torch.Tensor, sigma: float, radius: int | None = None, beyond: torch.Tensor | float | None = None) -> torch.Tensor:
    """Gaussian blur of [... H W] over `radius` pixels (4 sigma); sigma 0 changes nothing.

    Beyond the border lies the value `beyond`, broadcastable to the images, or, without one, the border's pixels repeated. Each axis is one
    product with a matrix that already holds the border.
    """
    if sigma <= 0:
        return images
    radius = ceil(4 * sigma) if radius is None else radius
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-offsets.double().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(images.dtype)

    def along(n: int) -> torch.Tensor:
        neighbours = torch.arange(n, device=images.device)[:, None] + offsets
        nearest = neighbours.clamp(0, n - 1)
        weights = kernel.expand(n, -1) if beyond is None else kernel * (neighbours == nearest)
        return images.new_zeros(n, n).scatter_add_(1, nearest, weights)

    down, across = along(images.shape[-2]), along(images.shape[-1]).T
    return down @ images @ across if beyond is None else beyond + down @ (images - beyond) @ across


def spread(size: tuple[int, int], cell: int, sigma: float, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that paints cells [n h w], one every `cell` pixels, on a canvas [n H' W'], the image with sigma pixels and more around it.

    A pixel is the soft maximum (coldness 20) over the cells in reach of u exp(-2 max(0, d / sigma - 1/2)^2), d its distance from the
    cell: a mask of no detail finer than sigma that still reaches 1 (Fong et al. 2019, eq. 7, as released).
    """
    kernel, padding = _reach(size, cell, sigma)
    kernel, side = kernel.to(device), round(len(kernel) ** 0.5)

    def paint(u: torch.Tensor) -> torch.Tensor:
        padded = F.pad(u[:, None], padding)
        taps = F.unfold(padded, side).unflatten(2, [n - side + 1 for n in padded.shape[2:]])
        taps = taps.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[..., : kernel.shape[1], : kernel.shape[2]] * kernel
        return (taps * (20 * taps).softmax(1)).sum(1)

    return paint


def _reach(size: tuple[int, int], cell: int, sigma: float) -> tuple[torch.Tensor, list[int]]:
    """The kernel at the distance of each cell in reach from each pixel of the canvas [T H' W'], and how cells are padded for it.

    Cell (i, j) sits at pixel (cell i, cell j) of the image.
    """
    radius, before = 1 + ceil(sigma / cell), 1 + ceil(2 * sigma / cell)
    offsets: list[torch.Tensor] = []
    padding: list[int] = []
    for side in size:
        cells = ceil(side / cell)
        count = max(cells + 2 * (before - radius), ceil((sigma + side) / cell) + 1)
        canvas = torch.arange(cell * (count - 1) + 1)
        offsets.append((canvas - sigma - cell * (canvas // cell + torch.arange(2 * radius + 1)[:, None] - before)).float())
        padding = [before, count + 2 * radius - cells - before, *padding]  # F.pad takes the last axis first
    distance = (offsets[0][:, None, :, None] ** 2 + offsets[1][None, :, None] ** 2).sqrt().flatten(0, 1)
    return torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2), padding
