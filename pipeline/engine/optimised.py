"""The optimised family: masks as variables, one loop for a batch of images.

B images of which n still move, M copies of each in a step, R candidates, H W pixels
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.backbones import Backbone
from pipeline.engine.look import autocast
from pipeline.engine.scene import Scene, pixels_of
from pipeline.engine.soft import smoothed, spread
from pipeline.families import METHODS, Descent, Optimised
from pipeline.requests import Request


def misfit(method: Request, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if method.args["steps"] < 1:
        return f"{method.alias}.steps is {method.args['steps']}; it must be at least 1"
    return None


def maps(method: Request, scene: Scene, target: int) -> torch.Tensor:
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
    found = []
    for rows in torch.arange(len(scene.pixels), device=scene.pixels.device).split(descent.together):
        given, judge = [value[rows] for value in descent.given], _Judge(scene, target, rows, descent.scalar)
        start = _chosen(descent, given, judge) if descent.choose else descent.start[rows]
        found.append(descent.show(_descended(descent, start, given, judge), *given))
    return torch.cat(found).float()


class _Judge:
    """What the network says of copies of some images: the explained scalar, with the direction of the clean look."""

    def __init__(self, scene: Scene, target: int, rows: torch.Tensor, scalar: str):
        explained = scene.targets[target]
        self.scene, self.scalar = scene, scalar
        self.direction, self.class_id = explained.directions[rows, 0], explained.class_id[rows]
        self.clean = self._scores(scene.look.logits[rows, None], slice(None))[:, 0]

    def __call__(self, copies: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Copies [n M 3 H W] of the images `rows` [n] -> scores [n M], differentiable; one forward for all of them."""
        backbone = self.scene.backbone
        with autocast(copies.device, self.scene.precision):
            y = backbone.logits(backbone.prepare.normalise(copies.flatten(0, 1)))
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


def _descended(descent: Descent, u: torch.Tensor, given: list[torch.Tensor], judge: _Judge) -> torch.Tensor:
    """The variable [B ...] each image ends with. An image that has stopped leaves the batch and costs nothing more."""
    rows = torch.arange(len(judge.clean), device=judge.clean.device)
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


def _looked(descent: Descent, u: torch.Tensor, step: int, given: list[torch.Tensor], judge: _Judge, rows: torch.Tensor) -> tuple:
    """Loss [n] and its gradient at the variable [n ...]: one forward and one backward."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        copies, penalty = descent.paint(u, step, *given)
        loss = descent.loss(judge(copies, rows), judge.clean[rows]) + penalty
        return loss.detach().float(), torch.autograd.grad(loss.sum(), u)[0]


@torch.no_grad()
def _chosen(descent: Descent, given: list[torch.Tensor], judge: _Judge) -> torch.Tensor:
    """Where each image starts [B ...], of the candidates; each of them costs one forward."""
    rows = torch.arange(len(judge.clean), device=judge.clean.device)
    scores = [judge(descent.paint(u.expand(len(rows), *u.shape), None, *given)[0], rows)[:, 0] for u in descent.start]
    return descent.start[descent.choose(torch.stack(scores, 1))]


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
