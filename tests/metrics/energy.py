"""Facts about energy in the box."""

HAND = {"energy": {"energy": 17 / 24}}
SILENT = ("a box between pixels",)
