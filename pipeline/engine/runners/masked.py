"""What the network says of masked copies: the one question of the masked family and of every faithfulness metric.

B images, N masks of an image, n rows of a pass, C classes, K channels, H W pixels
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.budget import within_budget
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import autocast
from pipeline.engine.masks import Masks, masks_of
from pipeline.families import METHODS, Copies, Masked, Windows, parameters
from pipeline.maps.render import upsample
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
    for code in masked.codes(method.args).values():
        if isinstance(code, Windows) and code.window > min(backbone.image_size):
            return f"its window of {code.window} pixels is larger than the image of {backbone.image_size}; set {method.alias}.window"
    return None


def maps(method: Choice, scene: Batch, target: int) -> torch.Tensor:
    """The map of one method for one target, [B h w] or [B H W], after the rectifier."""
    masked: Masked = METHODS[method.name]
    settings = method.args
    codes, fill = masked.codes(settings), settings.get("fill", "black")
    offered = {
        "clean": lambda: clean(scene)[target],
        "A": lambda: scene.look.A.detach().float(),
        "drops": lambda: drops(scene, method.alias)[target],
        "pixels": lambda: pixels_of(scene),
        "draw": lambda: partial(upsample, size=scene.size, how=masked.drawing(settings)),
        "again": lambda: (
            lambda name, pixels, wanted: ask(
                scene, masks_of(codes[name], scene), [_direction(scene, target)], fill, pixels, wanted, method.alias
            )[0]
        ),
        **{name: partial(_said, scene, code, fill, method.alias, target) for name, code in codes.items()},
    }
    return masked.map(
        **{name: offered[name]() for name in masked.asks},
        **{name: settings[name] for name in parameters(masked.map)},
    )


def _direction(scene: Batch, target: int) -> torch.Tensor:
    """The direction [B C] of a target that has one."""
    directions = scene.targets[target].directions
    if directions.shape[1] != 1:
        raise Refusal("methods outside the CAM family explain targets of one direction")
    return directions[:, 0]


def _directions(scene: Batch) -> dict[int, torch.Tensor]:
    """The directions [B C] of all targets that have one, by target."""
    return {t: explained.directions[:, 0] for t, explained in enumerate(scene.targets) if explained.directions.shape[1] == 1}


def clean(scene: Batch) -> dict[int, Copies]:
    """<d, y> and <d, p> [B] of the images as they are, by target; the look has seen them."""
    y = scene.look.logits
    return {t: Copies((d * y).sum(1), (d * scene.probabilities(y)).sum(1)) for t, d in _directions(scene).items()}


def _said(scene: Batch, code, fill: str, payer: str, target: int) -> Copies | None:
    """The answers of one target from the sweep over a mask set, which is made once for all targets and all methods that name the set."""
    if code is None:
        return None
    _direction(scene, target)
    masks, directions = masks_of(code, scene), _directions(scene)
    answers = scene.once(("copies", masks.key, fill), lambda: ask(scene, masks, list(directions.values()), fill, payer=payer))
    return answers[list(directions).index(target)]


@torch.no_grad()
def ask(
    scene: Batch,
    masks: Masks,
    directions: Sequence[torch.Tensor],
    fill: str = "black",
    pixels: torch.Tensor | None = None,
    wanted: torch.Tensor | None = None,
    payer: str = "",
) -> list[Copies]:
    """<d, y> and <d, p> [B N] of every masked copy x m + fill (1 - m), for each direction d [B C].

    Parameters:
        pixels: images [B 3 H W] in [0, 1] to mask instead of the batch's own.
        wanted: which copies [B N] to pass; the others' answers are zero.
        payer: the method or metric whose tally the rows go to.
    """
    shown = pixels_of(scene)
    answers = [Copies(*shown.new_zeros(2, len(shown), masks.count), partial(spread, scene, masks), masks.codes) for _ in directions]

    def read(images: torch.Tensor, which: torch.Tensor, y: torch.Tensor) -> None:
        p = scene.probabilities(y)
        for answer, d in zip(answers, directions, strict=True):
            answer.logit[images, which] = (d[images] * y).sum(1)
            answer.prob[images, which] = (d[images] * p).sum(1)

    passed(scene, masks, read, fill, pixels, wanted, payer)
    return answers


@torch.no_grad()
def passed(
    scene: Batch,
    masks: Masks,
    read: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
    fill: str = "black",
    pixels: torch.Tensor | None = None,
    wanted: torch.Tensor | None = None,
    payer: str = "",
) -> None:
    """Pass every masked copy x m + fill (1 - m), and hand their logits on: read(images [n], masks [n], y [n C]); the rest as in `ask`.

    A copy that shows the image as it is has the look's own logits: what two passes differ by would be taken for a gain or a loss.
    """
    own, pixels = pixels is None, pixels_of(scene) if pixels is None else pixels
    backdrop = fill_of(fill, pixels, scene.backbone.prepare) if masks.fill is None else masks.fill
    backdrop = backdrop.expand(len(pixels), *backdrop.shape[1:])
    # mask after mask, so that a mask all images share is painted once for them
    order = torch.arange(masks.count * len(pixels), device=pixels.device) if wanted is None else wanted.T.flatten().nonzero()[:, 0]

    def one_pass(start: int, stop: int) -> None:
        which, images = order[start:stop] // len(pixels), order[start:stop] % len(pixels)
        shown = pixels[images]
        x = torch.lerp(backdrop[images], shown, _painted(masks, which, images)[:, None])
        with autocast(x.device, scene.precision):
            y = scene.backbone.logits(scene.backbone.prepare.normalise(x)).float()
        if own:
            whole = (x == shown).flatten(1).all(1)
            y = torch.where(whole[:, None], scene.look.logits[images], y)
        read(images, which, y)

    within_budget(scene, len(order), one_pass, payer)
    scene.tally[payer, "forwards"] += len(order)


def _painted(masks: Masks, which: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Masks [n H W] of the rows of a pass; one that all images share is painted once."""
    if not masks.shared:
        return masks.paint(which, images)
    distinct, rows = which.unique_consecutive(return_inverse=True)
    return masks.paint(distinct, images)[rows]


@torch.no_grad()
def spread(scene: Batch, masks: Masks, weights: torch.Tensor) -> torch.Tensor:
    """sum_i w_i m_i [B H W] for weights [B N] of masks that all images share."""
    total = weights.new_zeros(len(weights), scene.size[0] * scene.size[1])

    def one_chunk(start: int, stop: int) -> None:
        which = torch.arange(start, stop, device=weights.device)
        total.addmm_(weights[:, start:stop], masks.paint(which, which).flatten(1))

    within_budget(scene, masks.count, one_chunk)
    return total.view(-1, *scene.size)


@torch.no_grad()
def drops(scene: Batch, payer: str) -> dict[int, torch.Tensor]:
    """What <d, y> [B K] of each target loses when a channel of A is zero; the trunk is not passed again, nor is a linear head."""
    directions = _directions(scene)
    if scene.backbone.pooled_linear is not None:
        share = scene.look.A.detach().float().mean((2, 3))
        return {t: d @ scene.backbone.pooled_linear * share for t, d in directions.items()}
    return scene.once("drops", lambda: _drops(scene, directions, payer))


def _drops(scene: Batch, directions: dict[int, torch.Tensor], payer: str) -> dict[int, torch.Tensor]:
    A, rest = scene.look.A.detach(), scene.look.rest
    before, lost = clean(scene), {t: A.new_zeros(A.shape[:2], dtype=torch.float32) for t in directions}

    def one_pass(start: int, stop: int) -> None:
        rows = torch.arange(start, stop, device=A.device)
        images, channels = rows // A.shape[1], rows % A.shape[1]
        copies = A[images]
        copies[torch.arange(len(rows), device=A.device), channels] = 0
        with autocast(A.device, scene.precision):
            y = scene.backbone.head(copies, tuple(other[images] for other in rest)).float()
        for t, d in directions.items():
            lost[t][images, channels] = before[t].logit[images] - (d[images] * y).sum(1)

    within_budget(scene, A.shape[0] * A.shape[1], one_pass, payer)
    scene.tally[payer, "heads"] += A.shape[0] * A.shape[1]
    return lost
