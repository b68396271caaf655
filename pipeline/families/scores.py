"""The metrics: what says how good a map is.

H W pixels, N boxes
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pipeline.families.registry import METRICS, Parameter, offered, parameters, register
from pipeline.refusal import Refusal

OFFERED = {"S", "raw", "boxes", "inside", "positive", "counted", "Bp", "label", "predicted", "p", "q", "o"}


class Undefined(Exception):
    """A metric has no value for this map; the message is the reason the tables give."""


@dataclass(frozen=True)
class Metric:
    """Numbers that say how good one map is, or counts that say so of a dataset once they are added up.

    `score` may ask for
        S          [H W]  the map at the network's input size, min-max to [0, 1], float64
        raw        [H W]  the same before min-max
        boxes      [N 4]  the object's boxes x0 y0 x1 y1 as fractions of the image, clipped to it, N >= 1
        inside     [H W]  bool, the pixels whose centre lies in a box
        positive   [H W]  bool, the object's mask where the data has one, `inside` where it has not; asked of a pair of classes, the
                          parts in which they differ
        counted    [H W]  bool, False where the mask says that a pixel is neither object nor ground
        Bp         [4]    the tight box around the largest part of the map above its mean (Opti-CAM appendix B)
        label      int    the image's class
        predicted  int    the class with the highest logit
        p          [2]    probability of the label (of the predicted class where there is none), and of the predicted class
        q          [2]    what is left beside them
        o          [2]    the same of the image times its map, in pixel space; costs one forward
    and returns one number, or one for each of `columns`. Where a metric belongs to a dataset it has a `total`: `score` then returns
    whole-number counts by name, which are added up over images in any order, and `total` asks for their sums by those names, and for
    `n`, the number of images. Settings of both may be set; `by_class` adds the counts up for each class as well. `score` raises
    `Undefined` where it has nothing to say.

    Attributes:
        columns: what it fills -> which way is better, None where neither is; every column begins with the metric's name.
        constant: whether a constant map has a value.
        of_pairs: whether it is asked of each pair of classes that the image's class belongs to, and is a mean over pairs.
    """

    name: str
    score: Callable[..., Any]
    columns: Mapping[str, Literal["higher", "lower"] | None]
    total: Callable[..., float] | None = None
    family: str = "localisation"
    constant: bool = False
    of_pairs: bool = False
    version: int = 1
    asks: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        asks = offered(self.name, self.score, OFFERED, self.family)
        if not all(column.startswith(self.name) for column in self.columns):
            raise Refusal(f"metric {self.name!r} fills {sorted(self.columns)}; every column must begin with its name")
        object.__setattr__(self, "asks", asks)
        settings = dict(parameters(self.score))
        if self.total:
            settings |= parameters(self.total) | ({} if self.of_pairs else {"by_class": Parameter(bool, False)})
        object.__setattr__(self, "parameters", MappingProxyType(settings))


def metric(score: Callable | None = None, *, better: str | None = "higher", columns: Mapping[str, str | None] | None = None, **traits):
    """Add a function to the metrics under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        name = function.__name__
        register(METRICS, name, Metric(name, function, columns or {name: better}, **traits))
        return function

    return add(score) if score else add
