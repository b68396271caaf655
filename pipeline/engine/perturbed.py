"""What the network says of images that a metric has changed by their maps, and the maps of changed images.

B images, N changed images of each, n rows of a pass, C classes, H W pixels
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import engine
from pipeline.backbones import Backbone
from pipeline.backbones.cutting.randomised import last_layers, randomised
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import run_forward
from pipeline.engine.masks import Masks
from pipeline.engine.runners.masked import passed
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
from pipeline.maps.render import unit, upsample
from pipeline.spec.grammar import Choice


@dataclass(frozen=True)
class ScoredMaps:
    """The maps of a batch as metrics see them, and whose they are.

    Attributes:
        method: what drew them.
        target: for which of the scene's targets.
        S: each image's map [H W] from 0 to 1; None where there is none, and nothing is asked of that image.
        inside: each image's pixels [H W] whose centre lies in a box; None where there is none.
        classes: the scored class, the predicted one and two rivals of the scored one [B 4]; -1 where there is none.
    """

    method: Choice
    target: int
    S: Sequence[np.ndarray | None]
    inside: Sequence[np.ndarray | None]
    classes: torch.Tensor

    @property
    def drawn(self) -> list[bool]:
        return [S is not None for S in self.S]


def refuse_metric(metric: Choice, backbone: Backbone) -> None:
    """Settings that no image could be changed by.

    Raises:
        Refusal: naming the value.
    """
    for code in METRICS[metric.name].codes(metric.args, backbone.image_size).values():
        if isinstance(code, Removed):
            fill_of(code.fill, torch.zeros(1, 3, 1, 1), backbone.prepare)
        if isinstance(code, Remapped) and isinstance(code.change, Randomised):
            last_layers(backbone.network, code.change)


def clean(scene: Batch, classes: torch.Tensor) -> list[ClassProbs]:
    """What the network says of each image as it is (N = 1); the look has seen it."""
    said = _Answers(scene, classes, 1)
    rows = torch.arange(len(classes), device=classes.device)
    said(rows, torch.zeros_like(rows), scene.look.logits)
    return said.by_image()


def answers(code: Perturbation, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | np.ndarray | None]:
    """The answer to one code for each image of the batch; None where there is no map to change it by, or none that the code can use.

    `payer` is the metric whose tally the passes go to.
    """
    return ASKERS[type(code)](code, scene, shown, payer)


class _Answers:
    """Gathers what logits say of the classes in question, in double precision."""

    def __init__(self, scene: Batch, classes: torch.Tensor, count: int):
        self.softmax, self.classes = scene.activation == "softmax", classes
        self.own = slice(scene.backbone.num_classes if scene.backbone.phrases else None)  # logits of phrases are beside the classes
        self.p, self.q = torch.full((2, len(classes), count, 4), torch.nan, dtype=torch.float64, device=classes.device)
        self.top = torch.full((len(classes), count), -1, device=classes.device)

    def __call__(self, images: torch.Tensor, which: torch.Tensor, y: torch.Tensor) -> None:
        y, classes = y[:, self.own].double(), self.classes[images]
        at = classes.clamp(min=0)
        if self.softmax:
            p = y.softmax(1)
            own = p.gather(1, at)
            # the sum of the others, not 1 - p: near 1 that would be all rounding
            rest = torch.stack([p.scatter(1, column[:, None], 0).sum(1) for column in at.unbind(1)], 1)
        else:
            own, rest = y.gather(1, at).sigmoid(), (-y.gather(1, at)).sigmoid()
        there = classes >= 0
        self.p[images, which], self.q[images, which] = (torch.where(there, value, torch.nan) for value in (own, rest))
        self.top[images, which] = y.argmax(1)

    def by_image(self) -> list[ClassProbs]:
        p, q, top = self.p.cpu().numpy(), self.q.cpu().numpy(), self.top.cpu().numpy()
        return [ClassProbs(p[i, :, :2], q[i, :, :2], p[i, :, 2:], top[i]) for i in range(len(p))]


def _asked(
    scene: Batch,
    shown: ScoredMaps,
    count: int,
    paint: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    payer: str,
    fill: str = "black",
    pixels: torch.Tensor | None = None,
    usable: Sequence[bool] | None = None,
    seen: torch.Tensor | None = None,
) -> list[ClassProbs | None]:
    """What the network says of N masked copies of each image that has a map; `seen` [N] are those that show the image as it is."""
    usable = shown.drawn if usable is None else usable
    device = scene.pixels.device
    wanted = torch.tensor(usable, device=device)[:, None].expand(-1, count)
    said = _Answers(scene, shown.classes, count)
    if seen is not None:
        for which in seen.nonzero()[:, 0]:
            rows = torch.arange(len(usable), device=device)
            said(rows, which.expand(len(usable)), scene.look.logits)
        wanted = wanted & ~seen
    passed(scene, Masks(None, count, paint, shared=False), said, fill, pixels, wanted, payer)
    return [each if use else None for each, use in zip(said.by_image(), usable, strict=True)]


def _stacked(scene: Batch, shown: ScoredMaps) -> torch.Tensor:
    """The maps [B H W], zero where there is none."""
    blank = np.zeros(scene.size)
    return torch.tensor(np.stack([blank if S is None else S for S in shown.S]), dtype=torch.float32, device=scene.pixels.device)


def _dimmed(code: Dimmed, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | None]:
    S = _stacked(scene, shown)
    S = 1 - S if code.inverse else S
    return _asked(scene, shown, 1, lambda which, images: S[images], payer)


def _powered(code: Powered, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | None]:
    S, powers = _stacked(scene, shown), torch.tensor(code.powers, device=scene.pixels.device)
    return _asked(scene, shown, len(powers), lambda which, images: S[images] ** powers[which][:, None, None], payer)


def _boxed(code: Boxed, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | None]:
    usable = [there and inside is not None for there, inside in zip(shown.drawn, shown.inside, strict=True)]
    blank = np.zeros(scene.size, bool)
    B = torch.tensor(np.stack([blank if inside is None else inside for inside in shown.inside]), device=scene.pixels.device)
    S = _stacked(scene, shown) if code.dimmed else torch.ones(B.shape, device=B.device)

    def paint(which: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return S[images] * (B[images] ^ (which == 1)[:, None, None])

    def found() -> list[ClassProbs | None]:
        return _asked(scene, shown, 2, paint, payer, usable=usable)

    # without the map the same copies whatever the map, so asked once for all maps of the same images
    return found() if code.dimmed else scene.once((code, tuple(usable)), found)


def _removed(code: Removed, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | None]:
    if code.order == "random":
        # the same copies whatever the map, so asked once for all maps of the same images
        return scene.once((code, tuple(shown.drawn)), lambda: _ranked(code, scene, shown, payer))
    return _ranked(code, scene, shown, payer)


def _ranked(code: Removed, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | None]:
    device, blank = scene.pixels.device, np.zeros(scene.size)
    maps = [blank if S is None or code.order == "random" else S for S in shown.S]
    seeds = scene.seeds("removed" if code.order == "random" else "ties")
    rank = torch.tensor(np.stack([ranks(S, code.patch, seed) for S, seed in zip(maps, seeds, strict=True)]), device=device)
    counts = torch.tensor(code.counts, dtype=torch.int32, device=device)

    def paint(which: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        first = rank[images] < counts[which][:, None, None]
        return (first if code.reveal else ~first).float()

    whole = counts > int(rank.max()) if code.reveal else counts == 0
    return _asked(scene, shown, len(counts), paint, payer, code.fill, seen=whole)


def ranks(S: np.ndarray, patch: int, seed: int) -> np.ndarray:
    """Each pixel's place [H W] in the order in which patches go, from 0: falling sums of S, ties in an order drawn from `seed`."""
    height, width = S.shape
    if patch > 1:
        S = np.add.reduceat(np.add.reduceat(S, np.arange(0, height, patch), 0), np.arange(0, width, patch), 1)
    drawn = np.random.default_rng(seed).permutation(S.size)
    place = np.empty(S.size, np.int32)
    place[drawn[np.argsort(-S.ravel()[drawn], kind="stable")]] = np.arange(S.size, dtype=np.int32)
    place = place.reshape(S.shape)
    return place.repeat(patch, 0).repeat(patch, 1)[:height, :width] if patch > 1 else place


def _cropped(code: Cropped, scene: Batch, shown: ScoredMaps, payer: str) -> list[ClassProbs | None]:
    pixels, size = pixels_of(scene), scene.size
    crops, usable = torch.zeros_like(pixels), [S is not None and bool(S.any()) for S in shown.S]
    for i, S in enumerate(shown.S):
        if usable[i]:
            x0, y0, x1, y1 = np.rint(geometry.around(S) * [*size[::-1], *size[::-1]]).astype(int)
            crops[i] = F.interpolate(pixels[i : i + 1, :, y0:y1, x0:x1], size, mode="bilinear", align_corners=False)[0]
    whole = torch.ones(1, 1, 1, device=pixels.device)
    return _asked(scene, shown, 1, lambda which, images: whole.expand(len(images), *size), payer, pixels=crops, usable=usable)


def _remapped(code: Remapped, scene: Batch, shown: ScoredMaps, payer: str) -> list[np.ndarray | None]:
    """Maps [N H W] by the same method, with the same noise, for the same directions, where the images or the network alone have changed."""
    draws = [_drawn(other, scene, shown, payer, code.raw) for other in _others(code.change, scene, shown, payer)]
    found: list[np.ndarray | None] = []
    for i, there in enumerate(shown.drawn):
        maps = np.stack([each[i] for each in draws])
        found.append(None if not there else maps if np.isfinite(maps).all() else maps[:0])
    return found


def _others(change: Dimmed | Noisy | Randomised, scene: Batch, shown: ScoredMaps, payer: str) -> Iterable[Batch]:
    """The batch where its images or the network alone have changed. Changed networks look once for all maps of the same images."""

    def other(backbone: Backbone, pixels: torch.Tensor) -> Batch:
        scene.tally[payer, "forwards"] += len(pixels)
        seen = run_forward(backbone, backbone.prepare.normalise(pixels), scene.precision)
        return replace(scene, look=seen, pixels=pixels, tally=type(scene.tally)(), _kept={})

    if isinstance(change, Randomised):
        return scene.once(change, lambda: [other(backbone, pixels_of(scene)) for backbone in randomised(scene.backbone, change)])
    return (other(scene.backbone, pixels) for pixels in _changed(change, scene, shown))


def _changed(change: Dimmed | Noisy, scene: Batch, shown: ScoredMaps):
    """Each changed batch [B 3 H W] in units of [0, 1]."""
    pixels = pixels_of(scene)
    if isinstance(change, Dimmed):
        S = _stacked(scene, shown)[:, None]
        yield pixels * (1 - S if change.inverse else S)
        return
    normalise, unnormalise = scene.backbone.prepare.normalise, scene.backbone.prepare.unnormalise
    generators = [torch.Generator().manual_seed(seed) for seed in scene.seeds("noisy")]
    for _ in range(change.draws):
        noise = torch.stack([2 * torch.rand(pixels.shape[1:], generator=draws) - 1 for draws in generators])
        yield unnormalise(normalise(pixels) + change.radius * noise.to(pixels.device))


def _drawn(other: Batch, scene: Batch, shown: ScoredMaps, payer: str, raw: bool) -> np.ndarray:
    """The maps [B H W] of another scene, min-max unless `raw`; NaN where they are not finite."""
    maps = engine.maps(shown.method, other, shown.target).float().cpu()
    for (_, kind), rows in other.tally.items():
        scene.tally[payer, kind] += rows
    other.tally.clear()
    images = upsample(maps, scene.size, METHODS[shown.method.name].render(shown.method.args)).numpy()
    finite = [np.isfinite(image).all() for image in images]
    drawn = [(image if raw else unit(image)) if whole else np.full_like(image, np.nan) for image, whole in zip(images, finite, strict=True)]
    return np.stack(drawn).astype(np.float64)


ASKERS = {Dimmed: _dimmed, Powered: _powered, Boxed: _boxed, Removed: _removed, Cropped: _cropped, Remapped: _remapped}
