"""Facts about meaningful perturbation. Its formula in double precision is in tests/references/optimised.py."""

# perturb_explanations: 28 x 28 cells, sums, beta 3, 4 pixels of jitter, the smallest sufficient disc first
DEFAULTS = {
    "steps": 300, "lr": 0.1, "cells": 28, "away": 10.0, "soft": 5.0, "area": 1e-4, "smooth": 1e-2, "beta": 3.0, "jitter": 4,
    "start": "circle",
}  # fmt: skip
SHORT = "mask(steps=5)"
TINY = "mask(steps=3,start=ones)"
NOISY = "mask(steps=3,start=ones)"
COST = "5F + 5B"
MORE = ("1F + 35F", "the batch's own forward, and the search for the disc that it starts from")
