"""Facts about integrated gradients. Its formula is in test_path."""

# captum's 50 points of a Gauss-Legendre rule; `calm` is the other paper's form
DEFAULTS = {"blur_ksize": 0, "steps": 50, "form": "canonical", "norm": "relu"}
TINY = "integrated_gradients(steps=3)"
COST = "50F + 50B"
MORE = ("1F", "the batch's own forward")
