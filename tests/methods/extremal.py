"""Facts about extremal perturbation. Its formula in double precision is in tests/references/optimised.py."""

# TorchRay
DEFAULTS = {
    "areas": (0.1,), "steps": 800, "lr": 0.01, "cell": 7, "sigma": 21.0, "away": 20.0, "levels": 8, "weight": 300.0,
    "growth": 1.0035, "smooth": 0.0, "border": "repeat",
}  # fmt: skip
SHORT = "extremal(steps=4)"
TINY = "extremal(steps=2,sigma=6)"  # a wide sigma needs blocks of 100 MB, which cost more time than they show
COST = "4F + 4B"
MORE = ("1F", "the batch's own forward")
