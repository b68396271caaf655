"""The attention family: how the class token of a transformer attends to the grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from pipeline.families.registry import METHODS, Parameter, offered, parameters, register


@dataclass(frozen=True)
class Attention:
    """How the class token attends to the grid, block upon block.

    `map` may ask for lists with an entry per block, first block first
        A   [B N N]        attention, averaged over heads
        dA  [B heads N N]  gradient of the explained scalar with respect to the attention
        RA  [B heads N N]  the attention's share of the explained scalar, by layer-wise relevance propagation
    and returns [B N], what of each token reaches the class token (token 0); the tokens before the grid's are dropped.
    """

    name: str
    map: Callable[..., torch.Tensor]
    version: int = 1
    family: str = "attention"
    grid: str = "cells"
    asks: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)
    seeded = False  # it draws nothing

    def __post_init__(self):
        object.__setattr__(self, "asks", offered(self.name, self.map, {"A", "dA", "RA"}, self.family))
        object.__setattr__(self, "parameters", MappingProxyType(dict(parameters(self.map))))

    @property
    def class_free(self) -> bool:
        """True where no class enters the map."""
        return self.asks == {"A"}

    def render(self, settings: Mapping[str, Any]) -> str:
        """How the stored map becomes an image."""
        return "bilinear"


def attention(map: Callable | None = None, *, version: int = 1):
    """Add a function to the attention family under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Attention(function.__name__, function, version))
        return function

    return add(map) if map else add
