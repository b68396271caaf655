"""Facts about SmoothGrad. Its formula is in test_path."""

DEFAULTS = {"blur_ksize": 0, "samples": 50, "spread": 0.25}  # CALM's code: 50 copies, std a quarter of the range
TINY = "smooth_grad(samples=3)"
NOISY = "smooth_grad(samples=3)"
COST = "50F + 50B"
MORE = ("1F", "the batch's own forward")
