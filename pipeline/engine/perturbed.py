"""Images that a metric changes by their maps, passed through the network, and the maps of changed images.

A painter says which copies a perturbation makes; one function passes the copies of all of them.

B images, N changed images of each, n rows of a pass, C classes, H W pixels
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import engine
from pipeline.backbones import Backbone
from pipeline.backbones.cutting.randomised import last_layers, randomised
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.copies import pass_copies
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import run_forward
from pipeline.engine.masks import Masks
from pipeline.families import (
    METHODS,
    METRICS,
    Boxed,
    ClassProbs,
    Cropped,
    Dimmed,
    Noisy,
    Perturbation,
    Powered,
    Randomised,
    Remapped,
    Removed,
)
from pipeline.maps import boxes as geometry
from pipeline.maps.render import sound, unit, upsample
from pipeline.spec.grammar import Choice


@dataclass(frozen=True)
class ScoredMaps:
    """The maps of a batch as metrics see them, and whose they are.

    Attributes:
        method: the method that made them.
        target: the place of their target among the batch's.
        S: each image's map [H W] from 0 to 1; None where there is none, and that image is not changed.
        inside: each image's pixels [H W] whose centre lies in a box; None where there is none.
        classes: the scored class, the predicted one and two rivals of the scored one [B 4]; -1 where there is none.
    """

    method: Choice
    target: int
    S: Sequence[np.ndarray | None]
    inside: Sequence[np.ndarray | None]
    classes: torch.Tensor

    def at(self, positions: Sequence[int]) -> "ScoredMaps":
        """Those of some of the images."""
        S, inside = ([values[i] for i in positions] for values in (self.S, self.inside))
        return replace(self, S=S, inside=inside, classes=self.classes[list(positions)])

    def usable(self, perturbation: Perturbation) -> list[bool]:
        """Whether each image has a map, and what else the perturbation needs: a box, or a map that is not zero everywhere."""
        usable = [S is not None for S in self.S]
        if isinstance(perturbation, Boxed):
            usable = [own and inside is not None for own, inside in zip(usable, self.inside, strict=True)]
        if isinstance(perturbation, Cropped):
            usable = [S is not None and bool(S.any()) for S in self.S]
        return usable

    def stacked(self, batch: Batch) -> torch.Tensor:
        """The maps [B H W], zero where there is none."""
        return _stack(self.S, torch.float32, batch)


@dataclass(frozen=True)
class Painting:
    """The changed images of a batch, as copies to pass: x m + fill (1 - m).

    Attributes:
        count: N, copies of each image.
        paint: (copies [n], images [n]) -> masks [n H W].
        fill: the colours of hidden pixels, see `engine.fills`.
        pixels: images [B 3 H W] in [0, 1] to copy instead of the batch's own.
        whole: the copies [N] that show the image as it is, which are not passed; None where there are none.
    """

    count: int
    paint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    fill: str = "black"
    pixels: torch.Tensor | None = None
    whole: torch.Tensor | None = None


def refuse_metric(metric: Choice, backbone: Backbone) -> None:
    """Refuse settings by which no image could be changed.

    Raises:
        Refusal: naming the value.
    """
    for perturbation in METRICS[metric.name].resolve(metric.args, backbone.image_size).values():
        fill = getattr(getattr(perturbation, "change", perturbation), "fill", None)
        if fill is not None:
            fill_of(fill, torch.zeros(1, 3, 1, 1), backbone.prepare)
        if isinstance(perturbation, Remapped) and isinstance(perturbation.change, Randomised):
            last_layers(backbone.network, perturbation.change)


def clean_probs(batch: Batch, classes: torch.Tensor) -> list[ClassProbs]:
    """The probabilities of `classes` [B 4] in each image as it is (N = 1), from the batch's own forward."""
    probs = _ClassProbs(batch, classes, 1)
    images = torch.arange(len(classes), device=classes.device)
    probs(images, torch.zeros_like(images), batch.forward.logits)
    return probs.by_image()


def perturb(perturbation: Perturbation, batch: Batch, maps: ScoredMaps, payer: str) -> Sequence[ClassProbs | np.ndarray | None]:
    """The probabilities in, or the maps [N H W] of, the changed images of each image; None where an image cannot be changed.

    `payer` is the metric whose tally the passes go to.
    """
    if isinstance(perturbation, Remapped):
        return _remap(perturbation, batch, maps, payer)
    usable = maps.usable(perturbation)

    def compute() -> list[ClassProbs | None]:
        painting = PAINTERS[type(perturbation)](perturbation, batch, maps)
        return _pass(painting, batch, maps.classes, usable, payer)

    # the same copies whatever the map are passed once for all maps of the same images
    return compute() if perturbation.by_map else batch.cached(("perturbed", perturbation, tuple(usable)), compute)


def _pass(painting: Painting, batch: Batch, classes: torch.Tensor, usable: list[bool], payer: str) -> list[ClassProbs | None]:
    """Pass the painted copies of the usable images; those that show the image as it is have the logits of the batch's own forward."""
    device = batch.pixels.device
    wanted = torch.tensor(usable, device=device)[:, None].expand(-1, painting.count)
    probs = _ClassProbs(batch, classes, painting.count)
    if painting.whole is not None:
        images = torch.arange(len(usable), device=device)
        for copy in painting.whole.nonzero()[:, 0]:
            probs(images, copy.expand(len(usable)), batch.forward.logits)
        wanted = wanted & ~painting.whole
    pass_copies(batch, Masks(None, painting.count, painting.paint, shared=False), probs, painting.fill, painting.pixels, wanted, payer)
    return [own if use else None for own, use in zip(probs.by_image(), usable, strict=True)]


class _ClassProbs:
    """Probabilities of the scored classes, gathered from logits in double precision."""

    def __init__(self, batch: Batch, classes: torch.Tensor, count: int):
        self.softmax, self.classes = batch.activation == "softmax", classes
        self.own = slice(batch.backbone.num_classes if batch.backbone.phrases else None)  # logits of phrases are beside the classes
        self.p, self.q = torch.full((2, len(classes), count, 4), torch.nan, dtype=torch.float64, device=classes.device)
        self.top = torch.full((len(classes), count), -1, device=classes.device)

    def __call__(self, images: torch.Tensor, copies: torch.Tensor, y: torch.Tensor) -> None:
        y, classes = y[:, self.own].double(), self.classes[images]
        index = classes.clamp(min=0)
        if self.softmax:
            p = y.softmax(1)
            own = p.gather(1, index)
            # the sum of the others, not 1 - p: near 1 that would be all rounding
            rest = torch.stack([p.scatter(1, column[:, None], 0).sum(1) for column in index.unbind(1)], 1)
        else:
            own, rest = y.gather(1, index).sigmoid(), (-y.gather(1, index)).sigmoid()
        exists = classes >= 0
        self.p[images, copies], self.q[images, copies] = (torch.where(exists, value, torch.nan) for value in (own, rest))
        self.top[images, copies] = y.argmax(1)

    def by_image(self) -> list[ClassProbs]:
        p, q, top = self.p.cpu().numpy(), self.q.cpu().numpy(), self.top.cpu().numpy()
        return [ClassProbs(p[i, :, :2], q[i, :, :2], p[i, :, 2:], top[i]) for i in range(len(p))]


def _dim(dimmed: Dimmed, batch: Batch, maps: ScoredMaps) -> Painting:
    S = maps.stacked(batch)
    S = 1 - S if dimmed.inverse else S
    return Painting(1, lambda copies, images: S[images], dimmed.fill)


def _raise_to_power(powered: Powered, batch: Batch, maps: ScoredMaps) -> Painting:
    S, powers = maps.stacked(batch), torch.tensor(powered.powers, device=batch.pixels.device)
    return Painting(len(powers), lambda copies, images: S[images] ** powers[copies][:, None, None], powered.fill)


def _box(boxed: Boxed, batch: Batch, maps: ScoredMaps) -> Painting:
    B = _stack(maps.inside, torch.bool, batch)
    S = maps.stacked(batch) if boxed.dimmed else torch.ones(B.shape, device=B.device)
    return Painting(2, lambda copies, images: S[images] * (B[images] ^ (copies == 1)[:, None, None]), boxed.fill)


def _remove(removed: Removed, batch: Batch, maps: ScoredMaps) -> Painting:
    device, blank = batch.pixels.device, np.zeros(batch.size)
    scores = [S if S is not None and removed.by_map else blank for S in maps.S]
    seeds = batch.seeds("ties" if removed.by_map else "removed")
    rank = torch.tensor(np.stack([ranks(S, removed.patch, seed) for S, seed in zip(scores, seeds, strict=True)]), device=device)
    counts = torch.tensor(removed.counts, dtype=torch.int32, device=device)

    def paint(copies: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        first = rank[images] < counts[copies][:, None, None]
        return (first if removed.reveal else ~first).float()

    whole = counts > int(rank.max()) if removed.reveal else counts == 0
    return Painting(len(counts), paint, removed.fill, whole=whole)


def _crop(cropped: Cropped, batch: Batch, maps: ScoredMaps) -> Painting:
    pixels, size = pixels_of(batch), batch.size
    crops = torch.zeros_like(pixels)
    for i, S in enumerate(maps.S):
        if S is not None and S.any():
            x0, y0, x1, y1 = np.rint(geometry.around(S) * [*size[::-1], *size[::-1]]).astype(int)
            crops[i] = F.interpolate(pixels[i : i + 1, :, y0:y1, x0:x1], size, mode="bilinear", align_corners=False)[0]
    ones = torch.ones(1, 1, 1, device=pixels.device)
    return Painting(1, lambda copies, images: ones.expand(len(images), *size), pixels=crops)


PAINTERS: dict[type, Callable[[Any, Batch, ScoredMaps], Painting]] = {
    Dimmed: _dim,
    Powered: _raise_to_power,
    Boxed: _box,
    Removed: _remove,
    Cropped: _crop,
}


def _stack(arrays: Sequence[np.ndarray | None], dtype: torch.dtype, batch: Batch) -> torch.Tensor:
    """Arrays [H W], one for each image of a batch, as one tensor [B H W]; zero where there is none."""
    blank = np.zeros(batch.size)
    stack = np.stack([blank if array is None else array for array in arrays])
    return torch.tensor(stack, dtype=dtype, device=batch.pixels.device)


def ranks(S: np.ndarray, patch: int, seed: int) -> np.ndarray:
    """Each pixel's place [H W] in the order in which patches go, from 0: falling sums of S, ties in an order drawn from `seed`."""
    height, width = S.shape
    if patch > 1:
        S = np.add.reduceat(np.add.reduceat(S, np.arange(0, height, patch), 0), np.arange(0, width, patch), 1)
    order = np.random.default_rng(seed).permutation(S.size)
    flat = np.empty(S.size, np.int32)
    flat[order[np.argsort(-S.ravel()[order], kind="stable")]] = np.arange(S.size, dtype=np.int32)
    rank = flat.reshape(S.shape)
    return rank.repeat(patch, 0).repeat(patch, 1)[:height, :width] if patch > 1 else rank


def _remap(remapped: Remapped, batch: Batch, maps: ScoredMaps, payer: str) -> list[np.ndarray | None]:
    """Maps [N H W] by the same method, with the same noise, for the same directions, where the images or the network alone have changed."""
    draws = [draw_maps(other, batch, maps, payer, remapped.raw) for other in _changed_batches(remapped.change, batch, maps, payer)]
    stacks: list[np.ndarray | None] = []
    for i, usable in enumerate(maps.usable(remapped)):
        stack = np.stack([draw[i] for draw in draws])
        stacks.append(None if not usable else stack if np.isfinite(stack).all() else stack[:0])
    return stacks


def _changed_batches(change: Dimmed | Noisy | Randomised, batch: Batch, maps: ScoredMaps, payer: str) -> Iterable[Batch]:
    """The batch where its images or the network alone have changed. A changed network is passed once for all maps of the same images."""

    def other(backbone: Backbone, pixels: torch.Tensor) -> Batch:
        batch.tally[payer, "forwards"] += len(pixels)
        forward = run_forward(backbone, backbone.prepare.normalise(pixels), batch.precision)
        return replace(batch, forward=forward, pixels=pixels, tally=type(batch.tally)(), _cache={})

    if isinstance(change, Randomised):
        return batch.cached(change, lambda: [other(backbone, pixels_of(batch)) for backbone in randomised(batch.backbone, change)])
    return (other(batch.backbone, pixels) for pixels in changed_images(change, batch, maps))


def changed_images(change: Dimmed | Noisy, batch: Batch, maps: ScoredMaps) -> Iterator[torch.Tensor]:
    """Each changed batch of images [B 3 H W] in units of [0, 1]."""
    pixels = pixels_of(batch)
    if isinstance(change, Dimmed):
        S, fill = maps.stacked(batch)[:, None], fill_of(change.fill, pixels, batch.backbone.prepare)
        yield fill + (pixels - fill) * (1 - S if change.inverse else S)
        return
    normalise, unnormalise = batch.backbone.prepare.normalise, batch.backbone.prepare.unnormalise
    generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds("noisy")]
    for _ in range(change.draws):
        noise = torch.stack([2 * torch.rand(pixels.shape[1:], generator=generator) - 1 for generator in generators])
        yield unnormalise(normalise(pixels) + change.radius * noise.to(pixels.device))


def draw_maps(other: Batch, batch: Batch, maps: ScoredMaps, payer: str, raw: bool) -> np.ndarray:
    """The maps [B H W] of another batch, min-max unless `raw`; NaN where they are not finite."""
    cells = engine.maps(maps.method, other, maps.target).float().cpu()
    for (_, kind), rows in other.tally.items():
        batch.tally[payer, kind] += rows
    other.tally.clear()
    render = batch.backbone.drawing(METHODS[maps.method.name].render(maps.method.args))
    images = upsample(cells, batch.size, render).numpy()
    draws = [(image if raw else unit(image)) if sound(image) else np.full_like(image, np.nan) for image in images]
    return np.stack(draws).astype(np.float64)
