"""Max-sensitivity (Yeh et al. 2019; Opti-CAM table 4): how far noise on the normalised image moves the map, at most.

The direction that is explained stays that of the clean image; maps are min-maxed.
"""

import numpy as np

from pipeline.families import Count, Noisy, Positive, Remapped, metric


def noisy(*, draws: Count = 10, radius: Positive = 0.2):
    return Remapped(Noisy(draws, radius))


@metric(perturbations={"again": noisy}, better="lower", family="faithfulness")
def max_sensitivity(S, again):
    return max(np.linalg.norm(other - S) for other in again) / np.linalg.norm(S)
