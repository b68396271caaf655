"""Cascading randomisation (Opti-CAM appendix G): how like the map is to those of networks whose last 1 ... 5 layers are drawn anew.

Rank correlation of the maps as they are and of their absolute values, SSIM of the maps brought to [0, 1] (Gaussian weights, data range
1) and the correlation of their HOG descriptors (16 x 16 pixels a cell). A constant map has no value; where that of a
changed network is constant, the changes have left nothing of the map, and it correlates with 0.
"""

import numpy as np

from pipeline.families import Randomised, Remapped, Undefined, Whole, metric, unit

STEPS = 5
SIMILARITIES = ("spearman", "spearman_abs", "ssim", "hog")
COLUMNS = {f"sanity_{name}_{step}": "lower" for name in SIMILARITIES for step in range(1, STEPS + 1)}


def networks(*, layers: tuple[str, ...] = (), seed: Whole = 0):
    return Remapped(Randomised(STEPS, layers, seed), raw=True)


def correlation(one, other):
    return np.corrcoef(one, other)[0, 1] if np.ptp(one) and np.ptp(other) else 0.0


@metric(perturbations={"networks": networks}, columns=COLUMNS, family="analysis", version=2)
def sanity(raw, networks):
    from scipy.stats import rankdata
    from skimage.feature import hog
    from skimage.metrics import structural_similarity

    if min(raw.shape) < 48:
        raise Undefined("HOG describes no image below 48 pixels")
    S, *others = map(unit, (raw.astype(np.float64), *networks))
    networks = [own if other.any() else other for own, other in zip(networks, others, strict=True)]  # constant but for rounding
    ranked = [[correlation(rankdata(f(raw)), rankdata(f(other))) for other in networks] for f in (np.asarray, np.abs)]
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    ssim = [structural_similarity(S, other, **settings) for other in others]
    descriptors = [hog(values, pixels_per_cell=(16, 16)) for values in (S, *others)]
    return *ranked[0], *ranked[1], *ssim, *(correlation(descriptors[0], other) for other in descriptors[1:])
