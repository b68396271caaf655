"""Mean maps of each class: where a method looks when it explains a class, on average over the images that the network got right, and wrong."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.maps.quantise import quantise
from pipeline.maps.render import unit
from pipeline.reduce.analyses.images import Image
from pipeline.reduce.analyses.registry import analysis, lacks_methods


@dataclass
class MapSum:
    """The sum of maps [h w] on one grid, and their number."""

    total: np.ndarray
    n: int = 0

    def add(self, cells: np.ndarray) -> None:
        self.total += cells
        self.n += 1

    def columns(self) -> dict:
        """The mean as the columns of `maps` have a map."""
        [levels], [low], [high] = quantise((self.total / self.n)[None].astype(np.float32))
        height, width = self.total.shape
        return {"n": self.n, "height": height, "width": width, "map": levels.ravel(), "map_min": low, "map_max": high}


@analysis("class", lacks=lacks_methods)
def mean_maps(images: Iterable[Image]) -> Iterator[dict]:
    """Means of the maps that are not constant, each brought to [0, 1] first, on the grid that they are stored on (a row each, were there several).

    A mean is stored as a map is, with 8 bits a cell, so that what draws a row of `maps` draws it too. Images without a label have no row, and
    right and wrong ones none where the network has no classes.
    """
    sums: dict[tuple, MapSum] = {}
    for image in images:
        for stored in image.maps if image.label is not None else ():
            for subset in subsets(image) if not stored.constant else ():
                key = (stored.model, image.label, stored.method, stored.target, subset, stored.render, stored.levels.shape)
                sums.setdefault(key, MapSum(np.zeros(stored.levels.shape))).add(unit(stored.cells))
    for key in sorted(sums):
        names = dict(zip(("model", "class_id", "method", "target", "subset", "render"), key, strict=False))
        yield {**names, **sums[key].columns()}


def subsets(image: Image) -> Sequence[str]:
    """The subsets that an image belongs to."""
    if image.predicted is None:
        return ("all",)
    return "all", "right" if image.predicted == image.label else "wrong"
