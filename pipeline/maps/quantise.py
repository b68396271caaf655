"""A map as it is stored: 8 bits a cell between its own minimum and maximum, with plain numbers to query.

N maps, h w cells
"""

from collections.abc import Mapping

import numpy as np

STORED_BITS = 8


def quantise(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps [N h w] as uint8 with their minima and maxima [N]; value = min + level / 255 * (max - min), off by at most half a step."""
    low, high = maps.min((1, 2)), maps.max((1, 2))
    span = np.where(high > low, high - low, 1)[:, None, None]
    levels = np.rint((maps - low[:, None, None]).astype(np.float64) / span * 255)
    return levels.astype(np.uint8), low.astype(np.float32), high.astype(np.float32)


def dequantise(levels, low: float, high: float, height: int, width: int) -> np.ndarray:
    """The stored map [h w] as float32."""
    levels = np.asarray(levels, dtype=np.float32).reshape(height, width)
    return (low + levels / 255 * (high - low)).astype(np.float32)


def stored(row: Mapping) -> np.ndarray:
    """The map [h w] of a row of `maps`, or of its join with `images`, where a `height_1` and `width_1` stand beside `height` and `width`.

    Raises:
        ValueError: where no height and width fit the number of cells.
    """
    for height, width in (("height", "width"), ("height_1", "width_1")):
        if height in row and width in row and row[height] * row[width] == len(row["map"]):
            return dequantise(row["map"], row["map_min"], row["map_max"], row[height], row[width])
    raise ValueError(f"the row has {len(row['map'])} cells, which is not its height times its width: select height and width of `maps`")


def rounded(map: np.ndarray) -> np.ndarray:
    """A map [h w] as it comes back from the tables."""
    levels, low, high = quantise(map[None])
    return dequantise(levels, low[0], high[0], *map.shape)


def summaries(maps: np.ndarray, part: tuple[float, float, float, float] | None = None) -> dict[str, np.ndarray]:
    """Plain numbers of maps [N h w], each [N]. `part` is that of the image which the maps lie over (see `render.part_of`).

    mean     of the map's values
    entropy  in nats, of the positive part as a distribution; null (NaN) where nothing is positive
    gini     of the positive part: 0 for a flat map, near 1 for a single cell; null (NaN) where nothing is positive
    peak_x, peak_y  centre of the first maximal cell, as fractions of the image
    """
    count, height, width = maps.shape
    flat = maps.reshape(count, -1).astype(np.float64)
    positive = np.clip(flat, 0, None)
    total = positive.sum(1)
    share = np.divide(positive, total[:, None], out=np.zeros_like(positive), where=total[:, None] > 0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    rank = np.arange(1, flat.shape[1] + 1)
    gini = ((2 * rank - flat.shape[1] - 1) * np.sort(share, 1)).sum(1) / flat.shape[1]
    peak = flat.argmax(1)
    empty = total <= 0
    peak_y, peak_x = (peak // width + 0.5) / height, (peak % width + 0.5) / width
    if part:
        top, left, bottom, right = part
        peak_y, peak_x = top + peak_y * (bottom - top), left + peak_x * (right - left)
    return {
        "mean": flat.mean(1),
        "entropy": np.where(empty, np.nan, -(share * logs).sum(1)),
        "gini": np.where(empty, np.nan, gini),
        "peak_x": peak_x,
        "peak_y": peak_y,
    }
