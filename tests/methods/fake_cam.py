"""Facts about Fake-CAM."""

DEFAULTS = {"norm": "relu"}
COST = "1F"
HAND = [[0.0, 1.0], [1.0, 1.0]]
NO_FORMULA = "it is a constant, which its case on paper holds in full"
