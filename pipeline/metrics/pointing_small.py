"""Pointing game of GLAS on small objects alone (section 4, PT-small; E17): null where the boxes take a quarter of the image or more."""

from pipeline.families import Fraction, Undefined, metric
from pipeline.metrics.pointing_blob import Threshold, pointing_blob


@metric(binary=True)
def pointing_small(S, boxes, *, threshold: Threshold = 0.95, small: Fraction = 0.25):
    hit, counts = pointing_blob(S, boxes, threshold=threshold, small=small)
    if not counts:
        raise Undefined(f"the object takes {small:g} of the image or more")
    return hit
