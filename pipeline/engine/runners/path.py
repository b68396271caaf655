"""The path family: gradients at many points, summed as they come, so that memory does not grow with their number.

B images, P points of a pack, H W pixels of the network's input
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.blur import smoothed
from pipeline.engine.budget import budget_of, within_budget
from pipeline.engine.forward import autocast
from pipeline.engine.shapes import checked
from pipeline.families import METHODS, Path, Walk
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    size = method.args["blur_ksize"]
    if size and size % 2 == 0:
        return f"{method.alias}.blur_ksize is {size}; give an odd number of pixels, or 0 for no blur"
    if METHODS[method.name].rule == "deconvnet" and not _has_rectifiers(backbone):
        return "its rule is about ReLU and ReLU6, and this network has neither; use gradient"
    return None


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map [B H W] of one method for one target.

    The explained scalar is <d, y> with d from the batch's own forward; gradients are taken with respect to the normalised input.
    """
    path: Path = METHODS[method.name]
    settings = method.args
    size = settings.pop("blur_ksize")
    draws = _Draws(batch.seeds(path.noise) if path.seeded else [], batch.size, batch.pixels.device)
    offers = {
        "x": lambda: batch.backbone.prepare.normalise(pixels_of(batch)),
        "normal": lambda: draws.normal,
        "uniform": lambda: draws.uniform,
    }
    walk = path.walk(**{name: offers[name]() for name in path.inputs}, **settings)
    direction = batch.targets[target].directions[:, 0]

    def compute() -> torch.Tensor:
        return sum_over_walk(walk, batch, direction, path.rule, method.alias)

    total = batch.cached(("walk", walk.name, path.noise, target), compute) if walk.name else compute()
    return _blur(checked(walk.finish(total), (len(batch.pixels), *batch.size)), size)


def sum_over_walk(walk: Walk, batch: Batch, direction: torch.Tensor, rule: str, payer: str) -> torch.Tensor:
    """The sum of a walk's summands. A small batch takes several points at a time, a large one a part of its images."""
    total: torch.Tensor | float = 0
    points, budget = iter(walk.points), budget_of(batch, payer, "backward")
    while pack := list(islice(points, max(1, budget.rows // len(direction)))):
        x = torch.cat([point for point, _ in pack])
        gradients = _gradients(batch, x, direction.repeat(len(pack), 1), rule, payer)
        for (_, weight), gradient in zip(pack, gradients.split(len(direction)), strict=True):
            total = total + walk.summand(gradient, weight)
    assert isinstance(total, torch.Tensor), "a walk has points"
    return total


def _gradients(batch: Batch, x: torch.Tensor, direction: torch.Tensor, rule: str, payer: str) -> torch.Tensor:
    """d<d, y>/dx [n 3 H W]."""
    gradients = torch.empty_like(x)

    def one_pass(start: int, stop: int) -> None:
        part = x[start:stop].detach().requires_grad_()
        with torch.enable_grad(), autocast(x.device, batch.precision), Deconvolution() if rule == "deconvnet" else nullcontext():
            y = batch.backbone.logits(part)
            gradients[start:stop] = torch.autograd.grad((direction[start:stop] * y.float()).sum(), part)[0]

    within_budget(batch, len(x), one_pass, payer, "backward")
    for kind in ("forwards", "backwards"):
        batch.tally[payer, kind] += len(x)
    return gradients


class _Draws:
    """Each image's own noise, drawn one call at a time: the order of the draws is the method's, whatever batch an image is in."""

    def __init__(self, seeds: list[int], size: tuple[int, int], device: torch.device):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.size, self.device = size, device

    def normal(self) -> torch.Tensor:
        return self._stack(torch.randn, 3, *self.size)

    def uniform(self) -> torch.Tensor:
        return self._stack(torch.rand, 1, 1, 1)

    def _stack(self, draw: Callable, *shape: int) -> torch.Tensor:
        return torch.stack([draw(shape, generator=generator) for generator in self.generators]).to(self.device)


def _blur(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Gaussian blur over `size` pixels (odd), with the width that OpenCV gives a kernel of this size; 0 and 1 change nothing."""
    return smoothed(maps, 0.3 * ((size - 1) * 0.5 - 1) + 0.8, size // 2) if size > 1 else maps


class _Rectified(torch.autograd.Function):
    """A rectifier whose gradient is rectified itself, wherever the forward was (Zeiler and Fergus 2014)."""

    @staticmethod
    def forward(ctx, x, top):
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.relu(), None


RECTIFIERS: dict[Callable, float] = {
    **dict.fromkeys((F.relu, torch.relu, torch.Tensor.relu, torch.relu_, torch.Tensor.relu_), float("inf")),
    **dict.fromkeys((F.relu6, F.hardtanh), 6.0),
}
IN_PLACE = (torch.relu_, torch.Tensor.relu_)


class Deconvolution(TorchFunctionMode):
    """While it lasts, every ReLU and ReLU6 called in this thread has the deconvnet's backward. The network is not touched."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        top = RECTIFIERS.get(function)
        # nn.ReLU6 is a hardtanh from 0 to 6
        if top is None or (function is F.hardtanh and (kwargs["min_val"], kwargs["max_val"]) != (0, 6)):
            return function(*args, **kwargs)
        self.count += 1
        y = _Rectified.apply(args[0], top)
        return args[0].copy_(y) if function in IN_PLACE or kwargs.get("inplace") else y


@torch.no_grad()
def _has_rectifiers(backbone: Backbone) -> bool:
    with Deconvolution() as rule:
        backbone.logits(torch.zeros(1, 3, *backbone.image_size, device=backbone.device))
    return rule.count > 0
