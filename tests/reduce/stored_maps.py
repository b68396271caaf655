"""Maps and images as analyses are given them, for tests."""

import numpy as np

from pipeline.maps.quantise import quantise
from pipeline.reduce.analyses.images import Image, StoredMap

SIZE = (32, 32)


def stored(cells, method: str = "a", target: str = "label", class_id: int | None = 0, others: tuple[int, ...] = (), render="bilinear"):
    """A map as the tables have it."""
    cells = np.asarray(cells, np.float32)
    levels, low, high = quantise(cells[None])
    return StoredMap("m", method, target, class_id, others, levels[0], float(low[0]), float(high[0]), render)


def image(*maps: StoredMap, name: str = "i0", **fields) -> Image:
    """An image of class 0 with these maps."""
    return Image(name, SIZE, maps=maps, **{"label": 0, **fields})
