"""Masks: compact codes painted as [n H W] in [0, 1], a chunk at a time.

B images, N masks of an image, n rows of a chunk, h w cells of the cut layer, H W pixels, S superpixels
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch

from pipeline.engine.batch import Batch, pixels_of
from pipeline.families import Bernoulli, Channels, Even, Segments, Spots, Superpixels, Windows
from pipeline.maps.render import units, upsample
from pipeline.tables.identity import seed_of


@dataclass(frozen=True)
class Masks:
    """A set of masks.

    Attributes:
        key: what tells it from every other set asked of the same batch.
        count: N, masks of each image.
        paint: (masks [n], images [n]) -> [n H W]: mask number masks[i] of image images[i]. Sets that all images share ignore the images.
        shared: whether all images share the masks.
        fill: what they uncover [B 3 H W], where the set brings that itself.
        codes: what they are painted from, for methods that compute with it.
    """

    key: Hashable
    count: int
    paint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    shared: bool = True
    fill: torch.Tensor | None = None
    codes: Any = None


def masks_of(code, scene: Batch) -> Masks:
    """The masks a code stands for on this batch."""
    return scene.once(("masks", code), lambda: PAINTERS[type(code)](code, scene))


def bernoulli(code: Bernoulli, scene: Batch) -> Masks:
    """Bilinear enlargements of s x s grids to s + 1 cells a side, each cut to the image at a random offset of less than a cell."""
    device = scene.look.A.device
    draws = torch.Generator().manual_seed(seed_of(scene.seed, "bernoulli", code.masks, code.cells, code.p))
    grids = (torch.rand(code.masks, code.cells, code.cells, generator=draws) < code.p).to(device)
    steps = [ceil(side / code.cells) for side in scene.size]
    offsets = [torch.randint(step, (code.masks,), generator=draws).to(device) for step in steps]

    def paint(masks, images):
        down, across = (
            _tents(offset[masks], side, step, code.cells) for offset, side, step in zip(offsets, scene.size, steps, strict=True)
        )
        return down @ grids[masks].float() @ across.mT

    return Masks(code, code.masks, paint)


def _tents(offset: torch.Tensor, side: int, step: int, cells: int) -> torch.Tensor:
    """Weights [n side cells] that enlarge `cells` bilinearly to (cells + 1) step pixels and keep `side` of them from `offset` [n] on."""
    at = torch.arange(side, device=offset.device) + offset[:, None] + 0.5
    centre = (at * cells / ((cells + 1) * step) - 0.5).clamp(0, cells - 1)
    return (1 - (centre[..., None] - torch.arange(cells, device=offset.device)).abs()).relu()


def outer(key: Hashable, rows: torch.Tensor, columns: torch.Tensor, without: bool) -> Masks:
    """Every outer product of a row profile [a H] and a column profile [b W], N = a b; 1 minus it where it is taken away."""

    def paint(masks, images):
        kept = rows[masks // len(columns)][:, :, None] * columns[masks % len(columns)][:, None]
        return 1 - kept if without else kept

    return Masks(key, len(rows) * len(columns), paint, codes=(rows, columns))


def spots(code: Spots, scene: Batch) -> Masks:
    """exp(-|x - mu|^2 / (2 sigma^2)) about the centres of a k x k grid, sigma in units of the shorter side / 15 (GLAS)."""
    sigma = code.sigma * min(scene.size) / 15

    def profile(side):
        pixels = torch.arange(side, device=scene.look.A.device) + 0.5
        centres = (torch.arange(code.k, device=pixels.device) + 0.5) * side / code.k
        return (-((pixels - centres[:, None]) ** 2) / (2 * sigma**2)).exp()

    return outer(code, *map(profile, scene.size), without=code.dark)


def windows(code: Windows, scene: Batch) -> Masks:
    """Zero inside a square; squares lie inside the image, every `stride` pixels and at the last edge."""

    def profile(side):
        starts = sorted({*range(0, side - code.window + 1, code.stride), side - code.window})
        pixels, starts = torch.arange(side, device=scene.look.A.device), torch.tensor(starts, device=scene.look.A.device)[:, None]
        return ((pixels >= starts) & (pixels < starts + code.window)).float()

    return outer(code, *map(profile, scene.size), without=True)


def channels(code: Channels, scene: Batch) -> Masks:
    """n(up(A_k)); a channel that is the same everywhere gives an all-zero mask."""
    A = scene.look.A.detach().float()

    def paint(masks, images):
        return units(upsample(A[images, masks], scene.size, "bilinear"))

    return Masks(code, A.shape[1], paint, shared=False)


def segments(code: Segments, scene: Batch) -> Masks:
    """Superpixels kept or not; those that are not show their mean colour."""
    device, seeds = scene.look.A.device, scene.seeds("lime")
    labels = torch.stack([_quickshift(image, code, seed) for image, seed in zip(scene.pixels.cpu(), seeds, strict=True)]).to(device)
    number = labels.amax((1, 2)) + 1
    bits = torch.zeros(len(seeds), code.samples, int(number.max()), dtype=torch.bool)
    for image, (seed, found) in enumerate(zip(seeds, number.tolist(), strict=True)):
        bits[image, :, :found] = torch.rand(code.samples, found, generator=torch.Generator().manual_seed(seed)) < 0.5
        bits[image, 0, :found] = True
    bits = bits.to(device)

    def paint(masks, images):
        return bits[images, masks].gather(1, labels[images].flatten(1)).view(-1, *scene.size).float()

    return Masks(code, code.samples, paint, False, _mean_colours(pixels_of(scene), labels), Superpixels(bits, labels, number))


def _quickshift(image: torch.Tensor, code: Segments, seed: int) -> torch.Tensor:
    """An image [3 H W] as the scene has it -> labels [H W], 0 to S - 1."""
    from skimage.segmentation import quickshift

    settings = {"kernel_size": code.kernel, "max_dist": code.max_dist, "ratio": code.ratio, "rng": seed % 2**31}
    return torch.from_numpy(quickshift(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), **settings).astype(np.int64))


def _mean_colours(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each pixel [B 3 H W] replaced by the mean of its superpixel."""
    where = labels.flatten(1)[:, None].expand(-1, 3, -1)
    sums = pixels.new_zeros(len(pixels), 3, int(labels.max()) + 1)
    total = sums.scatter_add(2, where, pixels.flatten(2))
    sizes = sums.scatter_add(2, where, torch.ones_like(pixels).flatten(2))
    return (total / sizes.clamp(min=1)).gather(2, where).view_as(pixels)


def even(code: Even, scene: Batch) -> Masks:
    return Masks(code, 1, lambda masks, images: torch.full((len(masks), *scene.size), code.kept, device=masks.device))


PAINTERS = {Bernoulli: bernoulli, Spots: spots, Windows: windows, Channels: channels, Segments: segments, Even: even}
