"""Facts about raw attention. Its formula is in test_attention."""

DEFAULTS = {}
COST = "1F"
MORE = ("1F", "the batch's own forward")
