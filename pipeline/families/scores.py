"""The metrics: what says how good a map is.

H W pixels, N boxes
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pipeline.families.registry import METRICS, Parameter, offered, parameters, register
from pipeline.refusal import Refusal


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
        p          [2]    probability of the label (of the predicted class where there is none), and of the predicted class
        q          [2]    what is left beside them
        o          [2]    the same of the image times its map, in pixel space; costs one forward
    and returns one number, or one for each of `columns`. Where a metric belongs to a dataset it has a `total`: `score` then returns
    whole-number counts by name, which are added up over images in any order, and `total` asks for their sums by those names, and for
    `n`, the number of images. `score` raises `Undefined` where it has nothing to say.

    Attributes:
        columns: what it fills -> which way is better, None where neither is; every column begins with the metric's name.
        constant: whether a constant map has a value.
        exact: whether it needs the map as it was computed, and says something else of one that was stored with 8 bits a cell.
        binary: whether its values are 0 or 1, so that their mean is a share.
    """

    name: str
    score: Callable[..., Any]
    columns: Mapping[str, Literal["higher", "lower"] | None]
    total: Callable[..., float] | None = None
    family: str = "localisation"
    constant: bool = False
    exact: bool = False
    binary: bool = False
    version: int = 1
    asks: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        asks = offered(self.name, self.score, {"S", "boxes", "inside", "positive", "Bp", "label", "predicted", "p", "q", "o"}, self.family)
        if not all(column.startswith(self.name) for column in self.columns):
            raise Refusal(f"metric {self.name!r} fills {sorted(self.columns)}; every column must begin with its name")
        object.__setattr__(self, "asks", asks)
        object.__setattr__(self, "parameters", MappingProxyType(dict(parameters(self.score))))


def metric(score: Callable | None = None, *, better: str | None = "higher", columns: Mapping[str, str | None] | None = None, **traits):
    """Add a function to the metrics under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        name = function.__name__
        register(METRICS, name, Metric(name, function, columns or {name: better}, **traits))
        return function

    return add(score) if score else add
