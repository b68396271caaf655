"""A map and what is true of its image -> what the metrics say of it.

h w cells, H W pixels of the network's input
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from pipeline.classes.pairs import Pair, Parts
from pipeline.families import ClassProbs, Perturbation, Undefined
from pipeline.maps import boxes as geometry
from pipeline.maps.render import unit, upsample

IGNORED = 128  # the code of a mask's pixels that are neither object nor ground


@dataclass(frozen=True)
class MapView:
    """One float map as it came from its method, drawn at the input's size on demand; each attribute is something a metric may ask for.

    Attributes:
        map: [h w], or the exception its method raised.
        render: how it becomes an image.
        size: (H, W).
        row: what is known of the image: label, boxes, and `mask` [H W] where the data has one (0 the ground, IGNORED neither,
            all else the object).
        predicted: the class with the highest logit, -1 where there are no classes.
        clean: what the network says of the image as it is.
        said: the answers to the codes of metrics; None, or an exception, where there is none.
    """

    map: np.ndarray | Exception
    render: str
    size: tuple[int, int]
    row: Mapping
    predicted: int
    clean: ClassProbs | None = None
    said: dict[Perturbation, ClassProbs | np.ndarray | Exception | None] = field(default_factory=dict)

    @cached_property
    def raw(self) -> np.ndarray:
        if isinstance(self.map, Exception):
            raise Undefined(f"there is no map: {type(self.map).__name__}")
        if not np.isfinite(self.map).all():
            raise Undefined("the map holds NaN or infinity")
        return upsample(torch.from_numpy(self.map)[None], self.size, self.render)[0].numpy()

    @cached_property
    def S(self) -> np.ndarray:
        return unit(self.raw).astype(np.float64)

    @cached_property
    def boxes(self) -> np.ndarray:
        given = self.row.get("boxes") or ()
        kept = geometry.clipped([box[side] for side in ("x0", "y0", "x1", "y1")] for box in given)
        if not len(kept):
            raise Undefined("no box lies in the image" if given else "no box")
        return kept

    @cached_property
    def inside(self) -> np.ndarray:
        found = geometry.pixels(self.boxes, self.size)
        if not found.any():
            raise Undefined("no pixel's centre lies in a box")
        return found

    @cached_property
    def positive(self) -> np.ndarray:
        mask = self.row.get("mask")
        found = self.inside if mask is None else (mask > 0) & self.counted
        if not found.any():
            raise Undefined("no pixel of the mask shows the object")
        return found

    @cached_property
    def counted(self) -> np.ndarray:
        mask = self.row.get("mask")
        return np.ones(self.size, bool) if mask is None else mask != IGNORED

    @cached_property
    def Bp(self) -> np.ndarray:
        return geometry.around(self.S)

    @property
    def p(self) -> np.ndarray:
        return self.clean.p[0]

    @property
    def q(self) -> np.ndarray:
        return self.clean.q[0]

    @property
    def d(self) -> np.ndarray:
        return self.clean.d[0]

    def answer(self, code: Perturbation) -> ClassProbs | np.ndarray:
        """What was said of the images changed by this map as `code` has it."""
        found = self.said[code]
        if isinstance(found, Exception):
            raise found
        if found is None or not len(found if isinstance(found, np.ndarray) else found.p):
            raise Undefined("the map of a changed image holds NaN or infinity")
        return found

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
        return not isinstance(self.map, Exception) and bool(np.isfinite(self.map).all())

    @property
    def label(self) -> int:
        if self.row["label"] is None:
            raise Undefined("no label")
        return self.row["label"]


@dataclass(frozen=True)
class PairView:
    """What a metric may ask of an image about a pair of classes: one map that tells them apart, or two of which the difference does.

    The difference is taken of the maps as they come, drawn, then made absolute, then brought to [0, 1] (CALM's code; the paper
    normalises first).
    """

    maps: tuple[MapView, ...]
    pair: Pair
    parts: Parts | None

    @cached_property
    def raw(self) -> np.ndarray:
        first, *others = (each.raw for each in self.maps)
        return np.abs(first - others[0]) if others else first

    @cached_property
    def S(self) -> np.ndarray:
        return unit(self.raw).astype(np.float64) if len(self.maps) > 1 else self.maps[0].S

    @cached_property
    def positive(self) -> np.ndarray:
        if self.parts is None:
            raise Undefined("no parts")
        found = self.parts.showing(self.pair.parts) & self.counted
        if not found.any():
            raise Undefined("no part in which the classes differ is visible")
        return found

    @property
    def counted(self) -> np.ndarray:
        return self.maps[0].counted
