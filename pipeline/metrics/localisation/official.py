"""Official metric (Opti-CAM A1): 1 minus the best overlap of the map's box with a true one, or 1 where the prediction is wrong."""

from pipeline.families import metric
from pipeline.maps.boxes import overlaps


@metric(better="lower")
def official(Bp, boxes, label, predicted):
    return 1 - overlaps(Bp[None], boxes).max() * (predicted == label)
