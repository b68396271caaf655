"""Facts about raw attention. Its formula is in tests/references/attention.py."""

DEFAULTS = {}
COST = "1F"
MORE = ("1F", "the batch's own forward")
