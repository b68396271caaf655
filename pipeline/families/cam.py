"""The CAM family: algebra on one forward of an image.

B images, K channels, h w cells of the cut layer, H W pixels of the network's input
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch

from pipeline.families.registry import METHODS, Parameter, checked_inputs, parameters, register

DRAWN = Parameter(Literal["bilinear", "bicubic"], "bilinear", later=True)


def rectify(maps: torch.Tensor, norm: str) -> torch.Tensor:
    """The phi of the CAM family: S = n(up(phi(sum_k W_k A_k))) (Opti-CAM eq. 1); `minmax` keeps negative evidence (CALM eq. 8-12)."""
    return maps.relu() if norm == "relu" else maps


@dataclass(frozen=True)
class Cam:
    """Algebra on one forward of an image: activations, the gradient of the explained scalar, the classifier's weights.

    `map` may take
        A        [B K h w]  activations of the cut layer
        dA       [B K h w]  gradient of the explained scalar with respect to A
        weights  [B K]      classifier weights of the explained direction (only where the head is pooling + linear)
        noise    [B h w]    uniform noise in [0, 1), from each image's own seed
        size     (H, W)     the network's input size
    and returns [B h w], or [B H W] when `grid` is "pixels", before the rectifier. Every method has the setting `norm`, its rectifier, and one
    on cells `drawn`, the way from cells to pixels.
    """

    name: str
    map: Callable[..., torch.Tensor]
    grid: Literal["cells", "pixels"] = "cells"
    version: int = 1
    family: str = "cam"
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "inputs", checked_inputs(self.name, self.map, {"A", "dA", "weights", "noise", "size"}, self.family))
        drawn = {"drawn": DRAWN} if self.grid == "cells" else {}
        settings = {"norm": Parameter(Literal["relu", "minmax"], "relu"), **drawn, **parameters(self.map)}
        object.__setattr__(self, "parameters", MappingProxyType(settings))

    @property
    def class_free(self) -> bool:
        """True where no class enters the map, which is then computed once, with target `none`."""
        return not self.inputs & {"dA", "weights"}

    @property
    def seeded(self) -> bool:
        """Whether the run's seed decides the map."""
        return "noise" in self.inputs

    def render(self, settings: Mapping[str, Any]) -> str:
        """The way from the stored map to an image."""
        if self.grid == "pixels":
            return "area"
        return settings["drawn"] if self.parameters["drawn"] is DRAWN else "bilinear"


def cam(map: Callable | None = None, *, grid: Literal["cells", "pixels"] = "cells", version: int = 1):
    """Add a function to the CAM family under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Cam(function.__name__, function, grid, version))
        return function

    return add(map) if map else add
