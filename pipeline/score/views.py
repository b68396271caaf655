"""A map and the truth about its image, as metrics see them.

h w cells, H W pixels of the network's input
"""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from pipeline.classes.pairs import Pair, Parts
from pipeline.families import ClassProbs, Perturbation, Undefined
from pipeline.maps import boxes as geometry
from pipeline.maps.render import sound, unit, upsample
from pipeline.sources.images import ImageRow

IGNORED = 128  # the code of a mask's pixels that are neither object nor ground


@dataclass(frozen=True)
class MapView:
    """One float map as it came from its method, drawn at the input's size on demand; a metric may ask for any property of it.

    Attributes:
        map: [h w], or the exception its method raised.
        render: how it becomes an image.
        size: (H, W).
        row: label, boxes and mask of the image.
        predicted: the class with the highest logit, -1 where there are no classes.
        clean: probabilities of the image as it is.
        responses: probabilities or maps of the images changed by this map, by perturbation; None, or an exception, where there are none.
    """

    map: np.ndarray | Exception
    render: str
    size: tuple[int, int]
    row: ImageRow
    predicted: int
    clean: ClassProbs | None = None
    responses: MutableMapping[Perturbation, ClassProbs | np.ndarray | Exception | None] = field(default_factory=dict)

    @cached_property
    def raw(self) -> np.ndarray:
        if isinstance(self.map, Exception):
            raise Undefined(f"there is no map: {type(self.map).__name__}")
        if not sound(self.map):
            raise Undefined("the map holds NaN or infinity")
        return upsample(torch.from_numpy(self.map)[None], self.size, self.render)[0].numpy()

    @cached_property
    def S(self) -> np.ndarray:
        return unit(self.raw).astype(np.float64)

    @cached_property
    def boxes(self) -> np.ndarray:
        boxes = geometry.clipped([box[side] for side in ("x0", "y0", "x1", "y1")] for box in self.row.boxes)
        if not len(boxes):
            raise Undefined("no box lies in the image" if self.row.boxes else "no box")
        return boxes

    @cached_property
    def inside(self) -> np.ndarray:
        pixels = geometry.pixels(self.boxes, self.size)
        if not pixels.any():
            raise Undefined("no pixel's centre lies in a box")
        return pixels

    @property
    def positive(self) -> np.ndarray:
        return self.truth()[0]

    @property
    def counted(self) -> np.ndarray:
        return _counted(self.row.mask, self.size)

    def truth(self, nearest: str = "pillow") -> tuple[np.ndarray, np.ndarray]:
        """`positive` and `counted` by the mask as Pillow or OpenCV takes the nearest of its pixels; one that comes at this size is the same."""
        mask = self.row.mask_opencv if nearest == "opencv" and self.row.mask_opencv is not None else self.row.mask
        counted = _counted(mask, self.size)
        positive = self.inside if mask is None else (mask > 0) & counted
        if not positive.any():
            raise Undefined("no pixel of the mask shows the object")
        return positive, counted

    @cached_property
    def Bp(self) -> np.ndarray:
        return geometry.around(self.S)

    @property
    def _clean(self) -> ClassProbs:
        assert self.clean is not None, "a metric that asks for probabilities is scored with the network's"
        return self.clean

    @property
    def p(self) -> np.ndarray:
        return self._clean.p[0]

    @property
    def q(self) -> np.ndarray:
        return self._clean.q[0]

    @property
    def d(self) -> np.ndarray:
        return self._clean.d[0]

    def response(self, perturbation: Perturbation) -> ClassProbs | np.ndarray:
        """Probabilities or maps of the images that a perturbation has changed by this map."""
        response = self.responses[perturbation]
        if isinstance(response, Exception):
            raise response
        if response is None or not len(response if isinstance(response, np.ndarray) else response.p):
            raise Undefined("the map of a changed image holds NaN or infinity")
        return response

    @property
    def object(self) -> np.ndarray | None:
        """`inside`, or None where there is none."""
        try:
            return self.inside
        except Undefined:
            return None

    @property
    def drawable(self) -> bool:
        """Whether there is a map to change the image by."""
        return not isinstance(self.map, Exception) and sound(self.map)

    @property
    def label(self) -> int:
        if self.row.label is None:
            raise Undefined("no label")
        return self.row.label


@dataclass(frozen=True)
class PairView:
    """A pair of classes as metrics see it in one image: one map that tells them apart, or two of which the difference does.

    The difference is taken of the maps as they come, drawn, then made absolute, then brought to [0, 1] (CALM's code; the paper
    normalises first). `parts` gives those of the image by the order in which points win ties, see `classes.pairs`.
    """

    maps: tuple[MapView, ...]
    pair: Pair
    parts: Callable[[str], Parts | None]

    @cached_property
    def raw(self) -> np.ndarray:
        first, *others = (view.raw for view in self.maps)
        return np.abs(first - others[0]) if others else first

    @cached_property
    def S(self) -> np.ndarray:
        return unit(self.raw).astype(np.float64) if len(self.maps) > 1 else self.maps[0].S

    @property
    def positive(self) -> np.ndarray:
        return self.truth()[0]

    def truth(self, ties: str = "points") -> tuple[np.ndarray, np.ndarray]:
        """`positive` and `counted`, with the parts by this order of ties."""
        parts = self.parts(ties)
        if parts is None:
            raise Undefined("no parts")
        positive = parts.showing(self.pair.parts) & self.counted
        if not positive.any():
            raise Undefined("no part in which the classes differ is visible")
        return positive, self.counted

    @property
    def counted(self) -> np.ndarray:
        return self.maps[0].counted


def _counted(mask: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """The pixels [H W] that are object or ground."""
    return np.ones(size, bool) if mask is None else mask != IGNORED
