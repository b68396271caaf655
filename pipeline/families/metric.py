"""The metrics: numbers that say how good a map is.

H W pixels, N boxes, or N changed images
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pipeline.families.perturbations import Noisy, Perturbation, Remapped, Removed
from pipeline.families.registry import METRICS, Parameter, checked_inputs, inputs_of, parameters, register
from pipeline.refusal import Refusal

OFFERED = frozenset({"S", "raw", "boxes", "inside", "positive", "counted", "truth", "Bp", "label", "predicted", "p", "q", "d"})


class Undefined(Exception):
    """A metric has no value for this map; the message is the reason the tables give."""


@dataclass(frozen=True)
class Metric:
    """Numbers that say how good one map is, or counts that say so of a dataset once they are added up.

    `perturbations` names sets of changed images, each a function from settings, and from `size` (H, W) if it takes it, to a perturbation
    of `families.perturbations`. `score` may take
        a perturbation by its name  the `ClassProbs` of its images; of `Remapped`, their maps [N H W]
        S          [H W]  the map at the network's input size, min-max to [0, 1], float64
        raw        [H W]  the same before min-max
        boxes      [N 4]  the object's boxes x0 y0 x1 y1 as fractions of the image, clipped to it, N >= 1
        inside     [H W]  bool, the pixels whose centre lies in a box
        positive   [H W]  bool, the object's mask where the data has one, `inside` where it has not; of a pair of classes, the
                          parts in which they differ
        truth      (rule) -> positive, counted: the same by a rule other than the first. Of a map "pillow" or "opencv", whose nearest
                          neighbour brings the mask to this size; of a pair "points" or "parts", the order in which points win ties
        counted    [H W]  bool, False where the mask says that a pixel is neither object nor ground
        Bp         [4]    the tight box around the largest part of the map above its mean (Opti-CAM appendix B)
        label      int    the image's class
        predicted  int    the class with the highest logit
        p q d      [2]    as in `ClassProbs`, of the image as it is
    and returns one number, or one for each of `columns`. Where a metric belongs to a dataset it is `corpus_level`, a function: `score`
    then returns whole-number counts by name, which are added up over images in any order, and `corpus_level` takes their sums by those
    names, and for `n`, the number of images; it returns as `score` does. `by_class` adds the counts up for each class as well. `score` raises `Undefined`
    where it has nothing to say.

    Attributes:
        columns: its columns -> which way is better, None where neither is; every column begins with the metric's name.
        family: the folder of pipeline/metrics that its file lies in. `localisation` compares the map with the object, `faithfulness` with the
            network's answers, `shape` with neither; `analysis` is computed only where it is named.
        constant: whether a constant map has a value.
        binary: the columns whose values are 0 or 1, so that their mean is a share; True for all of them.
        curves: whether `score` returns a curve for each column [columns N], in [0, 1] over equal steps. Then the column's number is the
            area under it, by the trapezoid rule over [0, 1], and the mean curve goes to the table `curves`.
        parameters: the settings, keyword-only parameters of `score`, `corpus_level` and the perturbations.
        of_pairs: whether it is computed for each pair of classes that the image's class belongs to, and is a mean over pairs.
    """

    name: str
    score: Callable[..., Any]
    columns: Mapping[str, str | None]
    corpus_level: Callable[..., Any] | None = None
    perturbations: Mapping[str, Callable[..., Perturbation]] = field(default_factory=dict)
    curves: bool = False
    family: str = "localisation"
    constant: bool = False
    binary: bool | Collection[str] = False
    of_pairs: bool = False
    version: int = 1
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        inputs = checked_inputs(self.name, self.score, {*OFFERED, *self.perturbations}, self.family)
        if not all(column.startswith(self.name) for column in self.columns):
            raise Refusal(f"metric {self.name!r} fills {sorted(self.columns)}; every column must begin with its name")
        binary = frozenset(self.columns if self.binary is True else self.binary or ())
        if binary - set(self.columns):
            raise Refusal(f"metric {self.name!r} fills {sorted(self.columns)}; binary names {sorted(binary - set(self.columns))}")
        for perturbation in self.perturbations.values():
            checked_inputs(self.name, perturbation, {"size"}, self.family)
        functions = *self.perturbations.values(), self.score
        settings = {name: setting for function in functions for name, setting in parameters(function).items()}
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "binary", binary)
        if self.corpus_level:
            settings |= {**parameters(self.corpus_level), **({} if self.of_pairs else {"by_class": Parameter(bool, False)})}
        object.__setattr__(self, "parameters", MappingProxyType(settings))

    def resolve(self, settings: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Perturbation]:
        """The perturbations of these settings at this size (H, W), by name."""
        values = {"size": size, **settings}
        return {
            name: function(**{key: values[key] for key in (*inputs_of(function), *parameters(function))})
            for name, function in self.perturbations.items()
        }

    @property
    def needs_network(self) -> bool:
        """Whether it needs the network's probabilities in an image, changed or as it is."""
        return bool(self.perturbations or self.inputs & {"p", "q", "d"})

    @property
    def needs_classes(self) -> bool:
        """Whether it has no value where the network has no classes."""
        return self.needs_network or "predicted" in self.inputs

    @property
    def remaps(self) -> bool:
        """Whether it needs maps of changed images or by changed networks: it is dear, and computed only where it is named."""
        return any(isinstance(perturbation, Remapped) for perturbation in self._defaults)

    @property
    def orders(self) -> bool:
        """Whether it takes the map's pixels in their order, which leaves ties to a rule."""
        return any(isinstance(p, Removed) and p.order == "map" for p in self._defaults)

    @property
    def seeded(self) -> bool:
        """Whether the run's seed decides it beyond the map: ties, random orders and noise are drawn."""
        return any(isinstance(p, Removed) or isinstance(getattr(p, "change", None), Noisy) for p in self._defaults)

    @property
    def _defaults(self) -> list[Perturbation]:
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return list(self.resolve(defaults, (1, 1)).values())


def metric(score: Callable | None = None, *, better: str | None = "higher", columns: Mapping[str, str | None] | None = None, **traits):
    """Add a function to the metrics under its own name; raise `version` when its values change."""

    def add(function: Callable) -> Callable:
        name = function.__name__
        register(METRICS, name, Metric(name, function, columns or {name: better}, **traits))
        return function

    return add(score) if score else add
