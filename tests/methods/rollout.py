"""Facts about attention rollout. Its formula is in tests/references/attention.py."""

DEFAULTS = {"start": 0}  # from the first block: "all blocks"
COST = "1F"
MORE = ("1F", "the batch's own forward")
