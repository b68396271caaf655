"""The path family: gradients with respect to the image, summed along a walk.

B images, H W pixels
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch

from pipeline.families.registry import METHODS, Parameter, checked_inputs, parameters, register
from pipeline.refusal import Whole


@dataclass(frozen=True)
class Walk:
    """Points at which the explained scalar's gradient is taken, and the map that the gradients add up to.

    Attributes:
        points: pairs of a point [B 3 H W] in normalised space and its weight (a number, or [B 3 H W]), made one at a time.
        summand: gradient [B 3 H W], weight -> the term [B ...] of the sum over the points.
        finish: the sum -> maps [B H W].
        name: walks of one name, as settings are part of it, are one walk and are taken once.
    """

    points: Iterable[tuple[torch.Tensor, Any]]
    summand: Callable[[torch.Tensor, Any], torch.Tensor]
    finish: Callable[[torch.Tensor], torch.Tensor] = lambda total: total
    name: tuple | None = None


def magnitude(gradient: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Largest absolute value over the colours [B 3 H W] -> [B H W], times `weight`."""
    return weight * gradient.abs().amax(1)


def spans(x: torch.Tensor) -> torch.Tensor:
    """Range of each image's values [B 3 H W] -> [B 1 1 1]."""
    return x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)


def noisy(x: torch.Tensor, normal: Callable, samples: int, spread: float, finish: Callable) -> Walk:
    """Around an image: E[s] and E[s^2] of the gradient's magnitude s over noisy copies; `finish` has both as [B 2 H W]."""

    def moments(gradient: torch.Tensor, weight: float) -> torch.Tensor:
        s = magnitude(gradient).double()  # a variance is a small difference of large numbers
        return weight * torch.stack([s, s.square()], 1)

    points = ((x + spread * spans(x) * normal(), 1 / samples) for _ in range(samples))
    return Walk(points, moments, lambda total: finish(total).float(), ("noisy", samples, spread))


@dataclass(frozen=True)
class Path:
    """Gradients of the explained scalar with respect to the network's input, summed along a walk.

    `walk` may take
        x        [B 3 H W]  the image as the network takes it, normalised
        normal   () -> [B 3 H W], the next standard normal draw of each image's own noise
        uniform  () -> [B 1 1 1], the same in [0, 1)
    and returns a Walk. `rule` says how the gradient passes ReLU: as it is, or as a deconvnet has it. `noise` names the method whose
    noise it shares.
    """

    name: str
    walk: Callable[..., Walk]
    rule: Literal["gradient", "deconvnet"] = "gradient"
    noise: str = ""
    version: int = 1
    family: str = "path"
    grid: Literal["cells", "pixels"] = "pixels"
    class_free: bool = False
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "inputs", checked_inputs(self.name, self.walk, {"x", "normal", "uniform"}, "path"))
        object.__setattr__(self, "noise", self.noise or self.name)
        object.__setattr__(self, "parameters", MappingProxyType({"blur_ksize": Parameter(Whole, 0), **parameters(self.walk)}))

    @property
    def seeded(self) -> bool:
        return bool(self.inputs & {"normal", "uniform"})

    def render(self, settings: Mapping[str, Any]) -> str:
        return "area"


def path(walk: Callable | None = None, *, rule: Literal["gradient", "deconvnet"] = "gradient", noise: str = "", version: int = 1):
    """Add a function to the path family under its own name."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Path(function.__name__, function, rule, noise, version))
        return function

    return add(walk) if walk else add
