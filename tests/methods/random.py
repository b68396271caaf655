"""Facts about the random control."""

DEFAULTS = {"norm": "relu", "drawn": "bilinear"}
COST = "1F"
HAND = [[0.25, 0.5], [0.75, 0.0]]
NO_FORMULA = "it is the noise that it takes, which its case on paper holds in full"
NOISY = "random"
NO_SOURCE = "noise"
