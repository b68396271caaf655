"""Perturbations: the changes that a metric makes to an image by its map, as values, and the probabilities in the changed images.

N changed images of one image, H W pixels
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.families.registry import Later
from pipeline.refusal import Refusal


@dataclass(frozen=True)
class Dimmed:
    """The image times its map, and `fill` times the rest, see `engine.fills`; `inverse` by one minus the map."""

    inverse: bool = False
    fill: str = "black"
    by_map: ClassVar[bool] = True


def dimmed(*, fill: Later[str] = "black") -> Dimmed:
    """The perturbation of metrics that dim the image by its map; with fill=mean it is the normalised image that is multiplied."""
    return Dimmed(fill=fill)


@dataclass(frozen=True)
class Powered:
    """One image for each of `powers`: the image times its map to that power, which keeps the order of the pixels."""

    powers: tuple[float, ...]
    fill: str = "black"
    by_map: ClassVar[bool] = True

    def __post_init__(self):
        if not self.powers or min(self.powers) <= 0:
            raise Refusal(f"powers={self.powers}: there are some, all above 0")


@dataclass(frozen=True)
class Boxed:
    """Two images: the inside of the object's boxes, and the outside of them, `fill` elsewhere; where it is `dimmed`, times the map as well."""

    dimmed: bool = False
    fill: str = "black"

    @property
    def by_map(self) -> bool:
        """Whether the map decides the changed images; those that it does not are passed once for all maps."""
        return self.dimmed


@dataclass(frozen=True)
class Removed:
    """One image for each of `counts`: so many patches show `fill`, the highest of the map first.

    Attributes:
        counts: patches removed; more than there are is all of them.
        fill: black, mean, min, blur, blur11, blur31 or a grey level, see `engine.fills`.
        patch: side of a patch in pixels, ranked by the map's sum in it; those at the far edges are what is left of them.
        order: `random` draws the patches instead, the same for every map of an image.
        reveal: whether so many patches show the image, and all others `fill`: the other way round.
    """

    counts: tuple[int, ...]
    fill: str = "mean"
    patch: int = 1
    order: Literal["map", "random"] = "map"
    reveal: bool = False

    def __post_init__(self):
        if not self.counts or min(self.counts) < 0 or self.patch < 1:
            raise Refusal(f"counts={self.counts}, patch={self.patch}: there are counts, none negative, of patches of at least 1 pixel")

    @property
    def by_map(self) -> bool:
        """As of `Boxed`."""
        return self.order == "map"


def equal_steps(size: tuple[int, int], steps: int) -> tuple[int, ...]:
    """Counts of pixels from none to all in `steps` equal steps; a step a pixel where there are fewer pixels."""
    pixels = size[0] * size[1]
    n = min(steps, pixels)
    return tuple(round(t * pixels / n) for t in range(n + 1))


@dataclass(frozen=True)
class Cropped:
    """The part of the image in Bp, enlarged to the input's size; a constant map has none."""

    by_map: ClassVar[bool] = True


@dataclass(frozen=True)
class Noisy:
    """The normalised image plus uniform noise in [-radius, radius], not clipped, `draws` times."""

    draws: int
    radius: float


@dataclass(frozen=True)
class Randomised:
    """The image as it is, in networks whose 1, 2, ... `steps` last layers are drawn anew from `seed`.

    `layers` names as many modules, last first; without them they are the last ones of the network.
    """

    steps: int
    layers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or len(self.layers) not in (0, self.steps):
            raise Refusal(f"layers={','.join(self.layers)}: name {self.steps} layers, the last one first, or none")


@dataclass(frozen=True)
class Remapped:
    """The maps by the same method for the same direction where the image or the network is changed: [N H W], or [] where one is not finite.

    They are drawn like S, or before min-max where they are `raw`.
    """

    change: Dimmed | Noisy | Randomised
    raw: bool = False


@dataclass(frozen=True)
class ClassProbs:
    """Probabilities of the scored classes in N images, in double precision.

    Attributes:
        p: [N 2] probability of the label (of the predicted class where there is none), and of the predicted class.
        q: [N 2] the rest beside them, summed over the other classes and not as 1 - p.
        d: [N 2] probability of the scored class's rivals: the class of the next highest logit in the image as it is, and the class with the
            most similar weights; NaN where there is none.
        top: [N] the class with the highest logit.
    """

    p: np.ndarray
    q: np.ndarray
    d: np.ndarray
    top: np.ndarray


Perturbation = Dimmed | Powered | Boxed | Removed | Cropped | Remapped
