"""The optimised family: masks found by descent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch

from pipeline.families.registry import METHODS, Parameter, checked_inputs, parameters, register


@dataclass(frozen=True)
class Descent:
    """A variable per image and the loss it goes down. No image's loss may depend on another image.

    n of the B images are still moving; M copies of an image are passed in a step

    Attributes:
        start: the variable [B ...], or candidates for it [R ...] where `choose` picks one per image.
        context: tensors [B ...], the values of each image that `paint` and `map_of` need.
        paint: variable [n ...], step, *context -> copies [n M 3 H W], pixels in [0, 1], and a penalty [n] or 0.
        loss: scores of the copies [n M], scores of the clean image [n] -> [n].
        map_of: variable [n ...], *context -> maps [n h w].
        scalar: the meaning of the scores: <d, y>, <d, p>, or <d, y> less the highest logit of another class.
        keep: the iterate of the lowest loss, or the last one.
        tolerance: an image whose loss changes by less stops.
        settle: brings the variable back to where it may be, after each step.
        choose: scores of the candidates [n R] -> the one to start from [n].
        copies: M, the rows that one image costs.
    """

    start: torch.Tensor
    context: tuple[torch.Tensor, ...]
    paint: Callable[..., tuple[torch.Tensor, torch.Tensor | float]]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    map_of: Callable[..., torch.Tensor]
    steps: int
    lr: float
    optimiser: Literal["adam", "sgd"] = "adam"
    scalar: Literal["logit", "prob", "margin"] = "logit"
    keep: Literal["best", "last"] = "best"
    tolerance: float = 0.0
    settle: Callable[[torch.Tensor], torch.Tensor] = lambda u: u
    choose: Callable[[torch.Tensor], torch.Tensor] | None = None
    copies: int = 1


@dataclass(frozen=True)
class Optimised:
    """A mask found by descent, for each image and target its own.

    `descent` may take
        pixels   [B 3 H W]  the image in [0, 1]
        A        [B K h w]  activations of the cut layer
        mean     [1 3 1 1]  the preparation's mean colour, zero once normalised
        uniform  (*shape) -> [B *shape], numbers in [0, 1) from each image's own seed
        blur     (images [... H W], sigma in pixels) -> Gaussian blur, the border's pixels repeated beyond it, or `beyond=` a value there
        draw     [n h w] -> [n H W], as stored maps on the grid of A are drawn
        spread   (size, cell, sigma, device) -> a function that spreads coarse cells [n h w] smoothly over pixels; see engine.blur
    and returns a Descent.
    """

    name: str
    descent: Callable[..., Descent]
    grid: Literal["cells", "pixels"] = "cells"
    rendering: Literal["bilinear", "area"] = "bilinear"
    version: int = 1
    family: str = "optimised"
    class_free: bool = False
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        object.__setattr__(
            self,
            "inputs",
            checked_inputs(self.name, self.descent, {"pixels", "A", "mean", "uniform", "blur", "spread", "draw"}, "optimised"),
        )
        object.__setattr__(self, "parameters", MappingProxyType(dict(parameters(self.descent))))

    @property
    def seeded(self) -> bool:
        return "uniform" in self.inputs

    def render(self, settings: Mapping[str, Any]) -> str:
        return self.rendering


def optimised(
    descent: Callable | None = None,
    *,
    grid: Literal["cells", "pixels"] = "cells",
    rendering: Literal["bilinear", "area"] = "bilinear",
    version: int = 1,
):
    """Add a function to the optimised family under its own name."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Optimised(function.__name__, function, grid, rendering, version))
        return function

    return add(descent) if descent else add
