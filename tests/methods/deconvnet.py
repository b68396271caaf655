"""Facts about the deconvnet. Its formula is in test_path."""

DEFAULTS = {"blur_ksize": 0}  # CALM's text blurs, its code by a kernel of one pixel
COST = "1F + 1B"
MORE = ("1F", "the batch's own forward")
