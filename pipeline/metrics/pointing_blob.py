"""Pointing game of GLAS (section 4; E17): 1 where the centroid of the largest blob above 0.95 lies in a box, without tolerance.

`pointing_blob_small` is 1 where the boxes take less than a quarter of the image. `pointing_small` is the same game on these alone.
"""

from typing import Annotated

import numpy as np

from pipeline.boxes import largest
from pipeline.families import Fraction, Range, metric

Threshold = Annotated[float, Range(0, 1, below=True)]


@metric(columns={"pointing_blob": "higher", "pointing_blob_small": None}, binary=True)
def pointing_blob(S, boxes, *, threshold: Threshold = 0.95, small: Fraction = 0.25):
    blob, _ = largest(threshold < S)
    y, x = ((index.mean() + 0.5) / side for index, side in zip(np.nonzero(blob), S.shape, strict=True))
    hit = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    return float(hit.any()), float(area < small)
