"""Facts about the pointing game."""

HAND = {"pointing": {"pointing": 1}}
SILENT = ("a box between pixels",)
