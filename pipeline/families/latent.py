"""The latent family: the place of the cue in a network that models it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from pipeline.families.registry import METHODS, Parameter, checked_inputs, parameters, register


@dataclass(frozen=True)
class Latent:
    """Algebra on the two distributions of a network with a latent place z of the cue.

    `map` may take
        g  [B C h w]  p(y|x,z)
        h  [B 1 h w]  p(z|x)
        d  [B C]      the explained direction
    and returns [B h w].
    """

    name: str
    map: Callable[..., torch.Tensor]
    version: int = 1
    family: str = "latent"
    grid: str = "cells"
    class_free: bool = False
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)
    seeded = False  # it draws nothing

    def __post_init__(self):
        object.__setattr__(self, "inputs", checked_inputs(self.name, self.map, {"g", "h", "d"}, self.family))
        object.__setattr__(self, "parameters", MappingProxyType(dict(parameters(self.map))))

    def render(self, settings: Mapping[str, Any]) -> str:
        """The way from the stored map to an image."""
        return "bilinear"


def latent(map: Callable | None = None, *, version: int = 1):
    """Add a function to the latent family under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Latent(function.__name__, function, version))
        return function

    return add(map) if map else add
