"""Pointing game of GLAS (section 4): 1 where the centroid of the largest blob above 0.95 lies in a box, without tolerance.

`pointing_blob_small` is 1 where the boxes take less than a quarter of the image. `pointing_small` is the same game on these alone.
"""

from pipeline.families import Fraction, Level, metric
from pipeline.maps.boxes import hit, share


@metric(columns={"pointing_blob": "higher", "pointing_blob_small": None}, binary=True)
def pointing_blob(S, boxes, *, threshold: Level = 0.95, small: Fraction = 0.25):
    return float(hit(threshold < S, boxes)), float(share(boxes) < small)
