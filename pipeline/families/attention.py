"""The attention family: how the class token of a transformer attends to the grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from pipeline.families.registry import METHODS, Parameter, checked_inputs, parameters, register
from pipeline.refusal import Refusal

STREAM = frozenset({"q", "k", "v", "x", "stream", "added"})


@dataclass(frozen=True)
class Attention:
    """A method made of the class token's attention to the grid, block upon block.

    `map` may take lists with an entry per block, first block first
        A   [B N N]        attention, averaged over heads
        dA  [B heads N N]  gradient of the explained scalar with respect to the attention
        RA  [B heads N N]  the attention's share of the explained scalar, by layer-wise relevance propagation
    and returns [B N], the share of each token that reaches the class token (token 0); the tokens before the grid's are dropped. Or it takes
        q k v   [B heads N d]  queries, keys and values
        x       [B N D]        the tokens they are made of
        stream  [B N D]        the residual stream before the block
        added   (block, values mixed by another attention [B heads N d]) -> their addition to the stream [B N D]
    the lists of these, and returns an end of the stream [B N D]: the map is then the explained scalar of each token by itself, as a
    cosine where the classes are texts.
    """

    name: str
    map: Callable[..., torch.Tensor]
    version: int = 1
    family: str = "attention"
    grid: str = "cells"
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)
    seeded = False  # it draws nothing

    def __post_init__(self):
        inputs = checked_inputs(self.name, self.map, {"A", "dA", "RA"} | STREAM, self.family)
        if inputs & STREAM and inputs - STREAM:
            raise Refusal(f"{self.name!r} asks for {sorted(inputs)}; attention matrices and the stream are not to be had in one pass")
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "parameters", MappingProxyType(dict(parameters(self.map))))

    @property
    def class_free(self) -> bool:
        """True where no class enters the map."""
        return self.inputs == {"A"}

    @property
    def streams(self) -> bool:
        """True where it follows the residual stream, not the attention matrices."""
        return bool(self.inputs & STREAM)

    def render(self, settings: Mapping[str, Any]) -> str:
        """The way from the stored map to an image."""
        return "bilinear"


def attention(map: Callable | None = None, *, version: int = 1):
    """Add a function to the attention family under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Attention(function.__name__, function, version))
        return function

    return add(map) if map else add
