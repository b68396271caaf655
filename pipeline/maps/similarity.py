"""How alike two maps are: rank correlation, structural similarity, relative distance.

N pairs of maps, h w cells
"""

from collections.abc import Mapping

import numpy as np

from pipeline.maps import render
from pipeline.maps.quantise import stored

WINDOW = 7  # cells a side of the windows of the structural similarity, where the map has as many


def on_one_grid(one: Mapping, other: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of `maps` as maps [h w] cell by cell: as they are stored where both lie over the image alike, or else drawn on the finer grid."""
    grids = [np.array(stored(row), dtype=np.float64) for row in (one, other)]
    if grids[0].shape == grids[1].shape and one["render"] == other["render"]:
        return grids[0], grids[1]
    import torch

    height, width = (max(sides) for sides in zip(grids[0].shape, grids[1].shape, strict=True))
    drawn = [
        render.upsample(torch.from_numpy(grid)[None], (height, width), row["render"])[0].numpy()
        for grid, row in zip(grids, (one, other), strict=True)
    ]
    return drawn[0], drawn[1]


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation (ties share their mean rank) of each pair of maps [N h w]: [N]; NaN where a map is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (one, other)]
    a, b = (of_maps - of_maps.mean(1, keepdims=True) for of_maps in ranks)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), size, out=np.full(len(one), np.nan), where=size > 0)


def structural_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The mean structural similarity (Wang et al. 2004) of two maps [h w] brought to [0, 1]; NaN where they have fewer than 3 cells a side."""
    from skimage.metrics import structural_similarity

    window = min(WINDOW, *one.shape)
    if window < 3:
        return float("nan")
    return float(structural_similarity(render.unit(one), render.unit(other), win_size=window - (window + 1) % 2, data_range=1.0))


def relative_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each pair of maps [N h w], as a share of the longer one's length: [N] from 0 to 2."""
    flat = [maps.reshape(len(maps), -1) for maps in (one, other)]
    length = np.maximum(*(np.linalg.norm(maps, axis=1) for maps in flat))
    return np.divide(np.linalg.norm(flat[0] - flat[1], axis=1), length, out=np.zeros(len(one)), where=length > 0)


def moved(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the maps of each pair [N h w] differ by more than rounding to what is stored: by over a 255th of the larger range: [N]."""
    flat = [maps.reshape(len(maps), -1) for maps in (one, other)]
    step = np.maximum(*(np.ptp(maps, axis=1) for maps in flat)) / 255
    rounding = render.FLAT * np.maximum(*(np.abs(maps).max(1) for maps in flat))
    return np.abs(flat[0] - flat[1]).max(1) > step + rounding
