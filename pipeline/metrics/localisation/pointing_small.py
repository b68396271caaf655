"""Pointing game of GLAS on small objects alone (section 4, PT-small): null where the boxes take a quarter of the image or more."""

from pipeline.families import Fraction, Level, Undefined, metric
from pipeline.maps.boxes import hit, share


@metric(binary=True)
def pointing_small(S, boxes, *, threshold: Level = 0.95, small: Fraction = 0.25):
    if share(boxes) >= small:
        raise Undefined(f"the object takes {small:g} of the image or more")
    return float(hit(threshold < S, boxes))
