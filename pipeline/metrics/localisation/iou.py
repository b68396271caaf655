"""IoU of RGLAS (table 3): overlap of the map at or above each threshold with the object's pixels."""

from pipeline.families import metric

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


@metric(columns={f"iou_{100 * threshold:.0f}": "higher" for threshold in THRESHOLDS})
def iou(S, inside):
    above = [threshold <= S for threshold in THRESHOLDS]
    return tuple((mask & inside).sum() / (mask | inside).sum() for mask in above)
