"""The optimised family: masks as variables, one loop for a batch of images.

B images of which n still move, M copies of each in a step, R candidates, H W pixels
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.blur import smoothed, spread
from pipeline.engine.budget import within_budget
from pipeline.engine.forward import autocast
from pipeline.families import METHODS, Descent, Optimised
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone: any that has a gradient will do."""
    return None


def maps(method: Choice, scene: Batch, target: int) -> torch.Tensor:
    """The map of one method for one target, [B h w] or [B H W]."""
    optimised: Optimised = METHODS[method.name]
    offered = {
        "pixels": lambda: pixels_of(scene),
        "A": lambda: scene.look.A.detach().float(),
        "uniform": lambda: _uniform(scene.seeds(optimised.name), scene.pixels.device),
        "blur": lambda: smoothed,
        "spread": lambda: spread,
    }
    descent = optimised.descent(**{name: offered[name]() for name in optimised.asks}, **method.args)
    judge = _Objective(scene, target, descent.scalar, method.alias)
    start = _chosen(descent, judge) if descent.choose else descent.start
    return _shown(descent, _descended(descent, start, judge), judge)


class _Objective:
    """What the network says of copies of some images: the explained scalar, with the direction of the clean look."""

    def __init__(self, scene: Batch, target: int, scalar: str, payer: str):
        explained = scene.targets[target]
        self.scene, self.scalar, self.payer = scene, scalar, payer
        self.direction, self.class_id = explained.directions[:, 0], explained.class_id
        self.clean = self._scores(scene.look.logits[:, None], slice(None))[:, 0]

    def __call__(self, copies: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Copies [n M 3 H W] of the images `rows` [n] -> scores [n M], differentiable; one forward for all of them."""
        backbone = self.scene.backbone
        with autocast(copies.device, self.scene.precision):
            y = backbone.logits(backbone.prepare.normalise(copies.flatten(0, 1)))
        self.scene.tally[self.payer, "forwards"] += len(y)
        if y.requires_grad:
            self.scene.tally[self.payer, "backwards"] += len(y)
        return self._scores(y.float().unflatten(0, copies.shape[:2]), rows)

    def _scores(self, y: torch.Tensor, rows) -> torch.Tensor:
        """Logits [n M C] -> <d, y>, <d, p>, or <d, y> less the highest logit of another class [n M]."""
        d = self.direction[rows, None]
        if self.scalar == "prob":
            y = self.scene.probabilities(y)
        score = (d * y).sum(2)
        classes = self.scene.backbone.num_classes
        if self.scalar == "margin" and classes:  # a phrase's rivals are all classes, and without any its logit stands alone
            own = F.one_hot(self.class_id[rows].clamp(min=0), classes).bool() & (self.class_id[rows, None] >= 0)
            score = score - y[..., :classes].masked_fill(own[:, None], -torch.inf).amax(2)
        return score


def _descended(descent: Descent, u: torch.Tensor, judge: _Objective) -> torch.Tensor:
    """The variable [B ...] each image ends with. An image that has stopped leaves the batch and costs nothing more."""
    rows, given = torch.arange(len(judge.clean), device=judge.clean.device), descent.given
    update = UPDATES[descent.optimiser]
    kept, state = torch.full_like(u, torch.nan), [torch.zeros_like(u) for _ in range(2)]
    best, last = (torch.full_like(judge.clean, torch.inf) for _ in range(2))
    for step in range(descent.steps):
        loss, gradient = _looked(descent, u, step, given, judge, rows)
        better = loss < best[rows]
        kept[rows[better]], best[rows[better]] = u[better], loss[better]
        moving = (loss - last[rows]).abs() >= descent.tolerance
        last[rows] = loss
        u = descent.settle(u - descent.lr * update(gradient, state, step))
        if not moving.all():
            rows, u, *state = (value[moving] for value in (rows, u, *state))
            given = [value[moving] for value in given]
            if not len(rows):
                break
    if descent.keep == "last":
        kept[rows] = u
    return kept


def _looked(descent: Descent, u: torch.Tensor, step: int, given: Sequence[torch.Tensor], judge: _Objective, rows: torch.Tensor) -> tuple:
    """Loss [n] and its gradient at the variable [n ...]: one forward and one backward, as many images at a time as memory holds."""
    losses, gradients = judge.clean.new_empty(len(rows)), torch.empty_like(u)

    def one_pass(start: int, stop: int) -> None:
        part = slice(start, stop)
        with torch.enable_grad():
            v = u[part].detach().requires_grad_()
            copies, penalty = descent.paint(v, step, *(value[part] for value in given))
            loss = descent.loss(judge(copies, rows[part]), judge.clean[rows[part]]) + penalty
            gradients[part] = torch.autograd.grad(loss.sum(), v)[0]
        losses[part] = loss.detach()

    within_budget(judge.scene, len(rows), one_pass, judge.payer, "backward", each=descent.copies)
    return losses, gradients


@torch.no_grad()
def _chosen(descent: Descent, judge: _Objective) -> torch.Tensor:
    """Where each image starts [B ...], of the candidates; each of them costs one forward."""
    rows = torch.arange(len(judge.clean), device=judge.clean.device)
    scores = judge.clean.new_empty(len(rows), len(descent.start))

    def one_pass(start: int, stop: int) -> None:
        part, given = slice(start, stop), [value[start:stop] for value in descent.given]
        for candidate, u in enumerate(descent.start):
            scores[part, candidate] = judge(descent.paint(u.expand(stop - start, *u.shape), None, *given)[0], rows[part])[:, 0]

    within_budget(judge.scene, len(rows), one_pass, judge.payer, each=descent.copies)
    return descent.start[descent.choose(scores)]


@torch.no_grad()
def _shown(descent: Descent, u: torch.Tensor, judge: _Objective) -> torch.Tensor:
    """The maps [B h w], as many at a time as are made in a step."""
    maps = []

    def one_pass(start: int, stop: int) -> None:
        maps.append(descent.show(u[start:stop], *(value[start:stop] for value in descent.given)).float())

    within_budget(judge.scene, len(u), one_pass, judge.payer, "backward", each=descent.copies)
    return torch.cat(maps)


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
