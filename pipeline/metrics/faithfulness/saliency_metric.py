"""Saliency metric (Dabkowski and Gal 2017; Opti-CAM A7): log of the box's area less log of the class's probability on that crop.

The crop, enlarged to the input's size, is needed for the published numbers: on the whole image they could not exceed the cross-entropy.
"""

import numpy as np

from pipeline.families import Cropped, metric


@metric(perturbations={"crop": Cropped}, better="lower", family="faithfulness")
def saliency_metric(Bp, crop):
    area = (Bp[2] - Bp[0]) * (Bp[3] - Bp[1])
    return np.log(max(area, 0.05)) - np.log(max(crop.p[0, 0], 1e-12))
