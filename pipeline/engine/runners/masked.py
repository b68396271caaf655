"""The masked family: the explained scalar of masked copies of an image.

B images, N masks of an image, n rows of a pass, C classes, K channels, H W pixels
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.budget import within_budget
from pipeline.engine.copies import pass_copies
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import autocast
from pipeline.engine.masks import Masks, masks_of
from pipeline.engine.shapes import checked
from pipeline.families import METHODS, Copies, Masked, Recipe, Windows, parameters
from pipeline.maps.render import alike, upsample
from pipeline.refusal import Refusal
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot.

    Raises:
        Refusal: where a setting is one no backbone could have.
    """
    masked: Masked = METHODS[method.name]
    if "fill" in method.args:
        fill_of(method.args["fill"], torch.zeros(1, 3, 1, 1), backbone.prepare)
    for recipe in masked.resolve(method.args).values():
        if isinstance(recipe, Windows) and recipe.window > min(backbone.image_size):
            return f"its window of {recipe.window} pixels is larger than the image of {backbone.image_size}; set {method.alias}.window"
    return None


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map of one method for one target, [B h w] or [B H W], after the rectifier."""
    masked: Masked = METHODS[method.name]
    settings = method.args
    recipes, fill = masked.resolve(settings), settings.get("fill", "black")

    def again(name: str, pixels: torch.Tensor, wanted: torch.Tensor) -> Copies:
        recipe = recipes[name]
        assert recipe is not None, f"{name} has masks whatever the settings"
        return score_copies(batch, masks_of(recipe, batch), [_direction(batch, target)], fill, pixels, wanted, method.alias)[0]

    offers: dict[str, Callable[[], Any]] = {
        "clean": lambda: clean(batch)[target],
        "A": lambda: batch.forward.A.detach().float(),
        "drops": lambda: drops(batch, method.alias)[target],
        "pixels": lambda: pixels_of(batch),
        "draw": lambda: partial(upsample, size=batch.size, how=batch.backbone.drawing(masked.cell_render(settings))),
        "again": lambda: again,
        **{name: partial(_bank, batch, recipe, fill, method.alias, target) for name, recipe in recipes.items()},
    }
    inputs = {name: offers[name]() for name in masked.inputs}
    result = masked.map(**inputs, **{name: settings[name] for name in parameters(masked.map)})
    return checked(result, *((len(batch.pixels), *grid) for grid in _grids(masked, batch, inputs.values())))


def _grids(masked: Masked, batch: Batch, inputs: Iterable[Any]) -> list[Sequence[int]]:
    """The grids (h, w) that a map may have: the image's pixels; or the cells of A, or those that its masks lie on."""
    if masked.grid == "pixels":
        return [batch.size]
    geometries = [copies.geometry for copies in inputs if isinstance(copies, Copies)]
    return [batch.forward.A.shape[2:], *(tuple(map(len, geometry)) for geometry in geometries if isinstance(geometry, tuple))]


def _direction(batch: Batch, target: int) -> torch.Tensor:
    """The direction [B C] of a target that has one."""
    directions = batch.targets[target].directions
    if directions.shape[1] != 1:
        raise Refusal("methods outside the CAM family explain targets of one direction")
    return directions[:, 0]


def _directions(batch: Batch) -> dict[int, torch.Tensor]:
    """The directions [B C] of all targets that have one, by target."""
    return {t: explained.directions[:, 0] for t, explained in enumerate(batch.targets) if explained.directions.shape[1] == 1}


def clean(batch: Batch) -> dict[int, Copies]:
    """<d, y> and <d, p> [B] of the images as they are, by target, from the batch's own forward."""
    y = batch.forward.logits
    return {t: Copies((d * y).sum(1), (d * batch.probabilities(y)).sum(1)) for t, d in _directions(batch).items()}


def _bank(batch: Batch, recipe: Recipe | None, fill: str, payer: str, target: int) -> Copies | None:
    """The scores of one target over a bank of masks, which is passed once for all targets and all methods that name its recipe."""
    if recipe is None:
        return None
    _direction(batch, target)
    masks, directions = masks_of(recipe, batch), _directions(batch)
    copies = batch.cached(("copies", masks.key, fill), lambda: score_copies(batch, masks, list(directions.values()), fill, payer=payer))
    return copies[list(directions).index(target)]


@torch.no_grad()
def score_copies(
    batch: Batch,
    masks: Masks,
    directions: Sequence[torch.Tensor],
    fill: str = "black",
    pixels: torch.Tensor | None = None,
    wanted: torch.Tensor | None = None,
    payer: str = "",
) -> list[Copies]:
    """<d, y> and <d, p> [B N] of every masked copy, for each direction d [B C], zero where a copy is not wanted; the rest as `pass_copies`.

    Where the copies of an image, and the image itself, differ by rounding alone, they have one score: a method would enlarge the rounding.
    """
    blank = batch.forward.logits.new_zeros(len(batch.pixels), masks.count)
    scores = [Copies(blank.clone(), blank.clone(), partial(spread, batch, masks), masks.geometry) for _ in directions]

    def read(images: torch.Tensor, numbers: torch.Tensor, y: torch.Tensor) -> None:
        p = batch.probabilities(y)
        for copies, d in zip(scores, directions, strict=True):
            copies.logit[images, numbers] = (d[images] * y).sum(1)
            copies.prob[images, numbers] = (d[images] * p).sum(1)

    pass_copies(batch, masks, read, fill, pixels, wanted, payer)
    y = batch.forward.logits
    for copies, d in zip(scores, directions, strict=True):
        for values, answers in ((copies.logit, y), (copies.prob, batch.probabilities(y))):
            _settle(values, wanted, None if pixels is not None else (d * answers).sum(1))
    return scores


def _settle(scores: torch.Tensor, wanted: torch.Tensor | None, whole: torch.Tensor | None) -> None:
    """Give the wanted copies [B N] one score, in place, where they differ by rounding alone: that of the `whole` image [B], if it is known."""
    wanted = torch.ones_like(scores, dtype=torch.bool) if wanted is None else wanted
    low, high = scores.masked_fill(~wanted, torch.inf).amin(1), scores.masked_fill(~wanted, -torch.inf).amax(1)
    if whole is not None:
        low, high = low.minimum(whole), high.maximum(whole)
    one = high if whole is None else whole
    scores.copy_(torch.where(wanted & alike(low, high)[:, None], one[:, None], scores))


@torch.no_grad()
def spread(batch: Batch, masks: Masks, weights: torch.Tensor) -> torch.Tensor:
    """sum_i w_i m_i [B H W] for weights [B N] of masks that all images share."""
    total = weights.new_zeros(len(weights), batch.size[0] * batch.size[1])

    def one_chunk(start: int, stop: int) -> None:
        numbers = torch.arange(start, stop, device=weights.device)
        total.addmm_(weights[:, start:stop], masks.paint(numbers, numbers).flatten(1))

    within_budget(batch, masks.count, one_chunk, filled=True)
    return total.view(-1, *batch.size)


@torch.no_grad()
def drops(batch: Batch, payer: str) -> dict[int, torch.Tensor]:
    """The loss of <d, y> [B K] of each target when a channel of A is zero; the trunk is not passed again, nor is a linear head."""
    directions, weights = _directions(batch), batch.backbone.pooled_linear
    if weights is not None:
        share = batch.forward.A.detach().float().mean((2, 3))
        return {t: d @ weights * share for t, d in directions.items()}
    return batch.cached("drops", lambda: _drops(batch, directions, payer))


def _drops(batch: Batch, directions: dict[int, torch.Tensor], payer: str) -> dict[int, torch.Tensor]:
    A, rest = batch.forward.A.detach(), batch.forward.rest
    whole, losses = clean(batch), {t: A.new_zeros(A.shape[:2], dtype=torch.float32) for t in directions}

    def one_pass(start: int, stop: int) -> None:
        rows = torch.arange(start, stop, device=A.device)
        images, channels = rows // A.shape[1], rows % A.shape[1]
        copies = A[images]
        copies[torch.arange(len(rows), device=A.device), channels] = 0
        with autocast(A.device, batch.precision):
            y = batch.backbone.head(copies, tuple(tensor[images] for tensor in rest)).float()
        for t, d in directions.items():
            losses[t][images, channels] = whole[t].logit[images] - (d[images] * y).sum(1)

    within_budget(batch, A.shape[0] * A.shape[1], one_pass, payer, filled=True)
    batch.tally[payer, "heads"] += A.shape[0] * A.shape[1]
    for t, loss in losses.items():  # of an image whose answer needs no channel, it is rounding
        most = loss.abs().amax(1)
        loss.masked_fill_(alike(-most, most, whole[t].logit.abs())[:, None], 0)
    return losses
