"""What a metric may change in an image by its map, as compact codes, and what the network says of the changed images.

N changed images of one image, H W pixels
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.refusal import Refusal


@dataclass(frozen=True)
class Dimmed:
    """The image times its map, in pixel space; `inverse` times one minus the map."""

    inverse: bool = False


@dataclass(frozen=True)
class Removed:
    """One image for each of `counts`: so many patches show `fill`, the highest of the map first.

    Attributes:
        counts: patches removed; more than there are is all of them.
        fill: black, mean, min, blur, blur11, blur31 or a grey level, see `engine.fills`.
        patch: side of a patch in pixels, ranked by the map's sum in it; those at the far edges are what is left of them.
        order: `random` draws the patches instead, the same for every map of an image.
        reveal: the other way round: so many patches show the image, and all others `fill`.
    """

    counts: tuple[int, ...]
    fill: str = "mean"
    patch: int = 1
    order: Literal["map", "random"] = "map"
    reveal: bool = False

    def __post_init__(self):
        if not self.counts or min(self.counts) < 0 or self.patch < 1:
            raise Refusal(f"counts={self.counts}, patch={self.patch}: there are counts, none negative, of patches of at least 1 pixel")


def equal_steps(size: tuple[int, int], steps: int) -> tuple[int, ...]:
    """Counts of pixels from none to all in `steps` equal steps; a step a pixel where there are fewer pixels."""
    if steps < 1:
        raise Refusal(f"steps={steps}: at least 1")
    pixels = size[0] * size[1]
    n = min(steps, pixels)
    return tuple(round(t * pixels / n) for t in range(n + 1))


@dataclass(frozen=True)
class Cropped:
    """What lies in Bp, enlarged to the input's size; there is none of a constant map."""


@dataclass(frozen=True)
class Noisy:
    """The normalised image plus uniform noise in [-radius, radius], not clipped, `draws` times."""

    draws: int
    radius: float

    def __post_init__(self):
        if self.draws < 1 or self.radius <= 0:
            raise Refusal(f"draws={self.draws}, radius={self.radius}: draws is at least 1 and radius above 0")


@dataclass(frozen=True)
class Remapped:
    """The maps of changed images by the same method for the same direction, drawn like S: [N H W], or [] where one is not finite."""

    change: Dimmed | Noisy


@dataclass(frozen=True)
class Said:
    """What the network says of N images, in double precision.

    Attributes:
        p: [N 2] probability of the label (of the predicted class where there is none), and of the predicted class.
        q: [N 2] what is left beside them, summed over the other classes and not as 1 - p.
        d: [N 2] probability of the scored class's rivals: the class of the next highest logit in the image as it is, and the class with the
            most similar weights; NaN where there is none.
        top: [N] the class with the highest logit.
    """

    p: np.ndarray
    q: np.ndarray
    d: np.ndarray
    top: np.ndarray


Perturbation = Dimmed | Removed | Cropped | Remapped
