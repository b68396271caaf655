"""How alike two maps are: rank correlation, structural similarity, relative distance.

h w cells
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


def standard_ranks(values: np.ndarray) -> np.ndarray | None:
    """The ranks of numbers [...], ties at their mean, with mean 0 and length 1 [N]: Spearman's correlation of two is their product.

    None where all are the same.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values.ravel())
    ranks -= ranks.mean()
    length = np.linalg.norm(ranks)
    return ranks / length if length else None


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two maps [h w], cell by cell; NaN where one is constant."""
    ranks = standard_ranks(one), standard_ranks(other)
    return float("nan") if ranks[0] is None or ranks[1] is None else float(ranks[0] @ ranks[1])


def structural_similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The mean structural similarity (Wang et al. 2004) of two maps [h w] brought to [0, 1]; NaN where they have fewer than 3 cells a side."""
    from skimage.metrics import structural_similarity

    window = min(WINDOW, *one.shape)
    if window < 3:
        return float("nan")
    return float(structural_similarity(render.unit(one), render.unit(other), win_size=window - (window + 1) % 2, data_range=1.0))


def relative_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Euclidean distance of two maps [h w], as a share of the longer one's length: from 0 to 2."""
    length = max(np.linalg.norm(one), np.linalg.norm(other))
    return float(np.linalg.norm(one - other) / length) if length else 0.0


def moved(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two maps [h w] differ by more than rounding to what is stored: somewhere by over a 255th of the larger range."""
    step = max(np.ptp(one), np.ptp(other)) / 255
    rounding = render.FLAT * max(np.abs(one).max(), np.abs(other).max())
    return bool(np.abs(one - other).max() > step + rounding)
