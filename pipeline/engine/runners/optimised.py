"""The optimised family: masks as variables, one loop for a batch of images.

B images of which n still move, M copies of each in a step, R candidates, H W pixels
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.blur import smoothed, spread
from pipeline.engine.budget import within_budget
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import autocast
from pipeline.engine.rehearsal import steps_of
from pipeline.engine.shapes import checked
from pipeline.families import METHODS, Descent, Optimised
from pipeline.maps.render import alike, upsample
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone; any network with a gradient will do."""
    return None


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map of one method for one target, [B h w] or [B H W]."""
    optimised: Optimised = METHODS[method.name]
    offers = {
        "pixels": lambda: pixels_of(batch),
        "A": lambda: batch.forward.A.detach().float(),
        "mean": lambda: fill_of("mean", pixels_of(batch), batch.backbone.prepare),
        "uniform": lambda: _uniform(batch.seeds(optimised.name), batch.pixels.device),
        "blur": lambda: smoothed,
        "spread": lambda: spread,
        "draw": lambda: partial(upsample, size=batch.size, how=batch.backbone.drawing("bilinear")),
    }
    descent = optimised.descent(**{name: offers[name]() for name in optimised.inputs}, **method.args)
    objective = _Objective(descent, batch, target, method.alias)
    return objective.maps(_descend(descent, objective.start(), objective))


class _Objective:
    """The loss of a descent: the explained scalar of copies of some images, with the direction of the batch's own forward."""

    def __init__(self, descent: Descent, batch: Batch, target: int, payer: str):
        explained = batch.targets[target]
        self.descent, self.batch, self.payer = descent, batch, payer
        self.direction, self.class_id = explained.directions[:, 0], explained.class_id
        self.clean = self._scores(batch.forward.logits[:, None], slice(None))[:, 0]
        self.low, self.high = self.clean.clone(), self.clean.clone()  # of the scores of each image and its copies so far
        self.steps = 0

    def evaluate(
        self, u: torch.Tensor, step: int, context: Sequence[torch.Tensor], rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss [n] and its gradient at the variable [n ...] of the images `rows`: one forward and one backward, within the budget."""
        descent, losses, gradients = self.descent, self.clean.new_empty(len(rows)), torch.empty_like(u)
        self.steps += 1

        def one_pass(start: int, stop: int) -> None:
            part = slice(start, stop)
            with torch.enable_grad():
                v = u[part].detach().requires_grad_()
                copies, penalty = descent.paint(v, step, *(value[part] for value in context))
                scores = self._pass(copies, rows[part])
                loss = descent.loss(scores, self.clean[rows[part]]) + penalty
                gradients[part] = torch.autograd.grad(loss.sum(), v)[0]
            losses[part] = loss.detach()
            self.low[rows[part]] = self.low[rows[part]].minimum(scores.detach().amin(1))
            self.high[rows[part]] = self.high[rows[part]].maximum(scores.detach().amax(1))

        within_budget(self.batch, len(rows), one_pass, self.payer, "backward", rows_each=descent.copies)
        return losses, gradients

    @torch.no_grad()
    def start(self) -> torch.Tensor:
        """The variable [B ...] to start from, chosen per image where the descent has candidates, each of which costs one forward."""
        descent = self.descent
        if descent.choose is None:
            return descent.start
        rows = torch.arange(len(self.clean), device=self.clean.device)
        scores = self.clean.new_empty(len(rows), len(descent.start))

        def one_pass(start: int, stop: int) -> None:
            context = [value[start:stop] for value in descent.context]
            for candidate, u in enumerate(descent.start):
                copies, _ = descent.paint(u.expand(stop - start, *u.shape), None, *context)
                scores[start:stop, candidate] = self._pass(copies, rows[start:stop])[:, 0]

        within_budget(self.batch, len(rows), one_pass, self.payer, rows_each=descent.copies)
        return descent.start[descent.choose(scores)]

    @torch.no_grad()
    def maps(self, u: torch.Tensor) -> torch.Tensor:
        """The maps [B h w] of the variable [B ...], as many at a time as in a step; zero where no score has moved by more than rounding."""
        maps = []
        grids = [self.batch.size, self.batch.forward.A.shape[2:], *([u.shape[-2:]] if u.dim() > 2 else [])]  # pixels, cells, own cells

        def one_pass(start: int, stop: int) -> None:
            part = self.descent.map_of(u[start:stop], *(value[start:stop] for value in self.descent.context))
            maps.append(checked(part, *((stop - start, *grid) for grid in grids)).float())

        within_budget(self.batch, len(u), one_pass, self.payer, "backward", rows_each=self.descent.copies)
        unmoved = (
            alike(self.low, self.high) if self.steps > 1 else torch.zeros_like(self.low, dtype=torch.bool)
        )  # a first copy may be the image
        return torch.cat(maps).masked_fill(unmoved[:, None, None], 0)

    def _pass(self, copies: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Copies [n M 3 H W] of the images `rows` [n] -> scores [n M], differentiable; one forward for all of them."""
        backbone = self.batch.backbone
        with autocast(copies.device, self.batch.precision):
            y = backbone.logits(backbone.prepare.normalise(copies.flatten(0, 1)))
        self.batch.tally[self.payer, "forwards"] += len(y)
        if y.requires_grad:
            self.batch.tally[self.payer, "backwards"] += len(y)
        return self._scores(y.float().unflatten(0, copies.shape[:2]), rows)

    def _scores(self, y: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
        """Logits [n M C] -> <d, y>, <d, p>, or <d, y> less the highest logit of another class [n M]."""
        d = self.direction[rows, None]
        if self.descent.scalar == "prob":
            y = self.batch.probabilities(y)
        score = (d * y).sum(2)
        classes = self.batch.backbone.num_classes
        if self.descent.scalar == "margin" and classes:  # a phrase's rivals are all classes, and without any its logit stands alone
            own = F.one_hot(self.class_id[rows].clamp(min=0), classes).bool() & (self.class_id[rows, None] >= 0)
            score = score - y[..., :classes].masked_fill(own[:, None], -torch.inf).amax(2)
        return score


def _descend(descent: Descent, u: torch.Tensor, objective: _Objective) -> torch.Tensor:
    """The variable [B ...] at the end of each image's descent. An image that has stopped leaves the batch and costs nothing more."""
    clean = objective.clean
    rows, context, update = torch.arange(len(clean), device=clean.device), list(descent.context), UPDATES[descent.optimiser]
    result, state = torch.full_like(u, torch.nan), [torch.zeros_like(u) for _ in range(2)]
    best, last = (torch.full_like(clean, torch.inf) for _ in range(2))
    for step in steps_of(objective.batch.tally, range(descent.steps), descent.steps):
        loss, gradient = objective.evaluate(u, step, context, rows)
        better = loss < best[rows]
        result[rows[better]], best[rows[better]] = u[better], loss[better]
        moving = (loss - last[rows]).abs() >= descent.tolerance
        last[rows] = loss
        u = descent.settle(u - descent.lr * update(gradient, state, step))
        if not moving.all():
            rows, u, *state = (value[moving] for value in (rows, u, *state))
            context = [value[moving] for value in context]
            if not len(rows):
                break
    if descent.keep == "last":
        result[rows] = u
    return result


def _adam(gradient: torch.Tensor, state: list[torch.Tensor], step: int) -> torch.Tensor:
    """Kingma and Ba 2015, algorithm 1; every number has its own moments, so images do not meet."""
    first, second = state
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    return first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)


def _sgd(gradient: torch.Tensor, state: list[torch.Tensor], step: int) -> torch.Tensor:
    """Momentum 0.9, dampened by as much after the first step, as torch has it."""
    velocity = state[0]
    velocity.mul_(0.9).add_(gradient, alpha=0.1 if step else 1.0)
    return velocity


UPDATES = {"adam": _adam, "sgd": _sgd}


def _uniform(seeds: list[int], device: torch.device) -> Callable[..., torch.Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda *shape: torch.stack([torch.rand(shape, generator=generator) for generator in generators]).to(device)
