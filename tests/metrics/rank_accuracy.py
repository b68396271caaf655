"""Facts about relevance rank accuracy."""

HAND = {"rank_accuracy": {"rank_accuracy": 3 / 4}}  # four pixels in the box: of the four highest three are there
SILENT = ("a box between pixels", "a mask without an object", "a mask of what is neither")
