"""Localisation error (Opti-CAM A2): 1 minus the best overlap of the map's box with a true one; continuous, unlike ILSVRC's."""

from pipeline.families import metric
from pipeline.maps.boxes import overlaps


@metric(better="lower")
def loc_error(Bp, boxes):
    return 1 - overlaps(Bp[None], boxes).max()
