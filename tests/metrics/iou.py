"""Facts about IoU."""

HAND = {"iou": {"iou_10": 3 / 8, "iou_30": 3 / 4, "iou_50": 3 / 4, "iou_70": 1 / 4, "iou_90": 1 / 4}}
SILENT = ("a box between pixels",)
