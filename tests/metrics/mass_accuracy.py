"""Facts about relevance mass accuracy."""

HAND = {"mass_accuracy": {"mass_accuracy": 17 / 24}}  # without a mask that of the box
SILENT = ("a box between pixels", "a mask without an object", "a mask of what is neither")
