"""Facts about GEM. Its formula is in test_open_clip."""

# the released code's depth 7 is six blocks; temperature 0 is mean |x| / sqrt(d)
DEFAULTS = {"depth": 6, "iterations": 1, "temperature": 0.0}
TINY = "gem(depth=2)"
COUNTED = "gem(depth=2)"
COST = "1F"
MORE = ("1F", "the batch's own forward")
