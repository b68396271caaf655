"""The families: what a method and what a metric is made of, and the tables of all of them.

Both are small pure functions whose signature says everything: its positional parameters are what it asks for, its keyword-only
parameters with their defaults are what a user may set.

    B images, K channels, C classes, h w cells of the cut layer, H W pixels of the network's input
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch

from pipeline.refusal import Refusal


@dataclass(frozen=True)
class Parameter:
    """One setting of a method, target or metric: its type (an annotation) and its default."""

    type: Any
    default: Any


def parameters(function: Callable) -> Mapping[str, Parameter]:
    """The keyword-only parameters of `function`."""
    signature = inspect.signature(function).parameters.values()
    return {p.name: Parameter(p.annotation, p.default) for p in signature if p.kind is p.KEYWORD_ONLY}


def asked_for(function: Callable) -> frozenset[str]:
    """The positional parameters of `function`: what it is handed."""
    signature = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD)


def register(table: dict, name: str, entry: Any) -> None:
    """Put `entry` into a registry under `name`; a second entry of that name is an error."""
    if name in table:
        raise Refusal(f"two entries are named {name!r}; rename one")
    table[name] = entry


def rectify(maps: torch.Tensor, norm: str) -> torch.Tensor:
    """The phi of the CAM family: S = n(up(phi(sum_k W_k A_k))) (Opti-CAM eq. 1); `minmax` keeps negative evidence (CALM eq. 8-12)."""
    return maps.relu() if norm == "relu" else maps


@dataclass(frozen=True)
class Cam:
    """Algebra on one look at an image: activations, the gradient of the explained scalar, the classifier's weights.

    `map` may ask for
        A        [B K h w]  activations of the cut layer
        dA       [B K h w]  gradient of the explained scalar with respect to A
        weights  [B K]      classifier weights of the explained direction (only where the head is pooling + linear)
        noise    [B h w]    uniform noise in [0, 1), from each image's own seed
        size     (H, W)     the network's input size
    and returns [B h w], or [B H W] when `grid` is "pixels", before the rectifier.
    """

    name: str
    map: Callable[..., torch.Tensor]
    grid: Literal["cells", "pixels"] = "cells"
    version: int = 1
    family: str = "cam"
    asks: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        known = {"A", "dA", "weights", "noise", "size"}
        asks = asked_for(self.map)
        if asks - known:
            raise Refusal(f"method {self.name!r} asks for {sorted(asks - known)}; the CAM family offers {sorted(known)}")
        object.__setattr__(self, "asks", asks)
        settings = {"norm": Parameter(Literal["relu", "minmax"], "relu"), **parameters(self.map)}
        object.__setattr__(self, "parameters", MappingProxyType(settings))

    @property
    def class_free(self) -> bool:
        """True where no class enters the map, which is then computed once, with target `none`."""
        return not self.asks & {"dA", "weights"}

    @property
    def gradient(self) -> bool:
        """Whether the head's gradient is needed."""
        return "dA" in self.asks

    @property
    def seeded(self) -> bool:
        """Whether the run's seed decides the map."""
        return "noise" in self.asks

    def render(self, settings: Mapping[str, Any]) -> str:
        """How the stored map becomes an image."""
        return "area" if self.grid == "pixels" else "bilinear"


METHODS: dict[str, Cam] = {}


def cam(map: Callable | None = None, *, grid: str = "cells", version: int = 1):
    """Add a function to the CAM family under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Cam(function.__name__, function, grid, version))
        return function

    return add(map) if map else add


class Undefined(Exception):
    """A metric has no value for this map; the message is the reason the tables give."""


@dataclass(frozen=True)
class Metric:
    """Numbers that say how good one map is, or counts that say so of a dataset once they are added up.

    `score` may ask for
        S          [H W]  the map at the network's input size, min-max to [0, 1], float64
        boxes      [N 4]  the object's boxes x0 y0 x1 y1 as fractions of the image, clipped to it, N >= 1
        inside     [H W]  bool, the pixels whose centre lies in a box
        positive   [H W]  bool, the object's mask where the data has one, `inside` where it has not
        Bp         [4]    the tight box around the largest part of the map above its mean (Opti-CAM appendix B)
        label      int    the image's class
        predicted  int    the class with the highest logit
    and returns one number, or one for each of `columns`. Where a metric belongs to a dataset it has a `total`: `score` then returns
    whole-number counts by name, which are added up over images in any order, and `total` asks for their sums by those names, and for
    `n`, the number of images. `score` raises `Undefined` where it has nothing to say.

    Attributes:
        columns: what it fills -> which way is better, None where neither is; every column begins with the metric's name.
        constant: whether a constant map has a value.
    """

    name: str
    score: Callable[..., Any]
    columns: Mapping[str, Literal["higher", "lower"] | None]
    total: Callable[..., float] | None = None
    family: str = "localisation"
    constant: bool = False
    version: int = 1
    asks: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        known = {"S", "boxes", "inside", "positive", "Bp", "label", "predicted"}
        asks = asked_for(self.score)
        if asks - known:
            raise Refusal(f"metric {self.name!r} asks for {sorted(asks - known)}; what is there: {sorted(known)}")
        if not all(column.startswith(self.name) for column in self.columns):
            raise Refusal(f"metric {self.name!r} fills {sorted(self.columns)}; every column must begin with its name")
        object.__setattr__(self, "asks", asks)
        object.__setattr__(self, "parameters", MappingProxyType(dict(parameters(self.score))))


METRICS: dict[str, Metric] = {}


def metric(score: Callable | None = None, *, better: str | None = "higher", columns: Mapping[str, str | None] | None = None, **traits):
    """Add a function to the metrics under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        name = function.__name__
        register(METRICS, name, Metric(name, function, columns or {name: better}, **traits))
        return function

    return add(score) if score else add
