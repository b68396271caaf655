"""Facts about TiBAV. Its formula is in tests/references/attention.py."""

DEFAULTS = {"start": 0}  # from the first block: "all blocks"
COST = "1F + 1B"
MORE = ("1F + 1B", "the batch's own forward; relevance goes back through the network as the gradient does")
MORE_FINER = ("1B", "relevance goes back once for and once against the class; in one seed they cancel")
