"""Facts about Gradient SHAP. Its formula is in test_path."""

# 20 copies, std 0.09 of the range, 20 normal baselines beside the mean colour
DEFAULTS = {"blur_ksize": 0, "samples": 20, "spread": 0.09, "baselines": 20}
TINY = "gradient_shap(samples=3)"
NOISY = "gradient_shap(samples=3)"
COST = "20F + 20B"
MORE = ("1F", "the batch's own forward")
