"""Masks: compact recipes painted as [n H W] in [0, 1], a chunk at a time.

B images, N masks of an image, n rows of a chunk, h w cells of the cut layer, H W pixels, S superpixels
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch

from pipeline.engine.batch import Batch, pixels_of
from pipeline.families import Bernoulli, Channels, Even, Recipe, Segments, Spots, Superpixels, Windows
from pipeline.maps.render import units, upsample
from pipeline.tables.identity import seed_of


@dataclass(frozen=True)
class Masks:
    """A bank of masks.

    Attributes:
        key: tells this bank from every other bank of the same batch.
        count: N, masks of each image.
        paint: (masks [n], images [n]) -> [n H W]: mask number masks[i] of image images[i]. Banks that all images share ignore the images.
        shared: whether all images share the masks.
        fill: the colours of hidden pixels [B 3 H W], where the bank brings them itself.
        geometry: the profiles or superpixels that the masks are painted from, for methods that compute with them; see `Copies`.
    """

    key: Hashable
    count: int
    paint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    shared: bool = True
    fill: torch.Tensor | None = None
    geometry: Any = None


def masks_of(recipe: Recipe, batch: Batch) -> Masks:
    """The masks of a recipe on this batch, made once."""
    return batch.cached(("masks", recipe), lambda: PAINTERS[type(recipe)](recipe, batch))


def bernoulli(recipe: Bernoulli, batch: Batch) -> Masks:
    """Bilinear enlargements of s x s grids to s + 1 cells a side, each cut to the image at a random offset of less than a cell."""
    device = batch.forward.A.device
    generator = torch.Generator().manual_seed(seed_of(batch.seed, "bernoulli", recipe.masks, recipe.cells, recipe.p))
    grids = (torch.rand(recipe.masks, recipe.cells, recipe.cells, generator=generator) < recipe.p).to(device)
    steps = [ceil(side / recipe.cells) for side in batch.size]
    offsets = [torch.randint(step, (recipe.masks,), generator=generator).to(device) for step in steps]

    def paint(masks, images):
        down, across = (_tents(offset[masks], side, step, recipe) for offset, side, step in zip(offsets, batch.size, steps, strict=True))
        return down @ grids[masks].float() @ across.mT

    return Masks(recipe, recipe.masks, paint)


def _tents(offset: torch.Tensor, side: int, step: int, recipe: Bernoulli) -> torch.Tensor:
    """Weights [n side cells] that enlarge cells bilinearly to (cells + 1) step pixels and keep `side` of them from `offset` [n] on."""
    cells, position = recipe.cells, torch.arange(side, device=offset.device) + offset[:, None] + 0.5
    centre = position * cells / ((cells + 1) * step) - 0.5
    if recipe.border == "mirror":
        centre = cells - 1 - (cells - 1 - centre.abs()).abs()
    centre = centre.clamp(0, cells - 1)
    return (1 - (centre[..., None] - torch.arange(cells, device=offset.device)).abs()).relu()


def outer(key: Hashable, rows: torch.Tensor, columns: torch.Tensor, without: bool) -> Masks:
    """Every outer product of a row profile [a H] and a column profile [b W], N = a b; 1 minus it where it is taken away."""

    def paint(masks, images):
        products = rows[masks // len(columns)][:, :, None] * columns[masks % len(columns)][:, None]
        return 1 - products if without else products

    return Masks(key, len(rows) * len(columns), paint, geometry=(rows, columns))


def spots(recipe: Spots, batch: Batch) -> Masks:
    """exp(-|x - mu|^2 / (2 sigma^2)) about the centres of a k x k grid, sigma in units of the shorter side / 15 (GLAS)."""
    sigma = recipe.sigma * min(batch.size) / 15

    def profile(side: int) -> torch.Tensor:
        pixels = torch.arange(side, device=batch.forward.A.device) + 0.5
        centres = (torch.arange(recipe.k, device=pixels.device) + 0.5) * side / recipe.k
        return (-((pixels - centres[:, None]) ** 2) / (2 * sigma**2)).exp()

    height, width = batch.size
    return outer(recipe, profile(height), profile(width), without=recipe.dark)


def windows(recipe: Windows, batch: Batch) -> Masks:
    """Zero inside a square; squares lie inside the image, every `stride` pixels and at the last edge."""

    def profile(side: int) -> torch.Tensor:
        last = side - recipe.window
        starts = torch.tensor(sorted({*range(0, last + 1, recipe.stride), last}), device=batch.forward.A.device)[:, None]
        pixels = torch.arange(side, device=starts.device)
        return ((pixels >= starts) & (pixels < starts + recipe.window)).float()

    height, width = batch.size
    return outer(recipe, profile(height), profile(width), without=True)


def channels(recipe: Channels, batch: Batch) -> Masks:
    """n(up(A_k)); a channel that is the same everywhere gives an all-zero mask."""
    A = batch.forward.A.detach().float()

    def paint(masks, images):
        how = "corners" if recipe.align_corners else batch.backbone.drawing("bilinear")
        return units(upsample(A[images, masks], batch.size, how))

    return Masks(recipe, A.shape[1], paint, shared=False)


def segments(recipe: Segments, batch: Batch) -> Masks:
    """Superpixels kept or not; those that are not show their mean colour."""
    device, seeds = batch.forward.A.device, batch.seeds("lime")
    labels = torch.stack([_quickshift(image, recipe, seed) for image, seed in zip(batch.pixels.cpu(), seeds, strict=True)]).to(device)
    number = labels.amax((1, 2)) + 1
    bits = torch.zeros(len(seeds), recipe.samples, int(number.max()), dtype=torch.bool)
    for image, (seed, count) in enumerate(zip(seeds, number.tolist(), strict=True)):
        bits[image, :, :count] = torch.rand(recipe.samples, count, generator=torch.Generator().manual_seed(seed)) < 0.5
        bits[image, 0, :count] = True
    bits = bits.to(device)

    def paint(masks, images):
        return bits[images, masks].gather(1, labels[images].flatten(1)).view(-1, *batch.size).float()

    return Masks(recipe, recipe.samples, paint, False, _mean_colours(pixels_of(batch), labels), Superpixels(bits, labels, number))


def _quickshift(image: torch.Tensor, recipe: Segments, seed: int) -> torch.Tensor:
    """An image [3 H W] as the batch has it -> labels [H W], 0 to S - 1."""
    from skimage.segmentation import quickshift

    settings = {"kernel_size": recipe.kernel, "max_dist": recipe.max_dist, "ratio": recipe.ratio, "rng": seed % 2**31}
    return torch.from_numpy(quickshift(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), **settings).astype(np.int64))


def _mean_colours(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each pixel [B 3 H W] replaced by the mean of its superpixel."""
    index = labels.flatten(1)[:, None].expand(-1, 3, -1)
    blank = pixels.new_zeros(len(pixels), 3, int(labels.max()) + 1)
    sums = blank.scatter_add(2, index, pixels.flatten(2))
    sizes = blank.scatter_add(2, index, torch.ones_like(pixels).flatten(2))
    return (sums / sizes.clamp(min=1)).gather(2, index).view_as(pixels)


def even(recipe: Even, batch: Batch) -> Masks:
    """One mask, the same everywhere."""
    return Masks(recipe, 1, lambda masks, images: torch.full((len(masks), *batch.size), recipe.share, device=masks.device))


PAINTERS: dict[type, Callable[[Any, Batch], Masks]] = {
    Bernoulli: bernoulli,
    Spots: spots,
    Windows: windows,
    Channels: channels,
    Segments: segments,
    Even: even,
}
