"""Facts about GLAS by shadow alone."""

from tests.methods.glas import LAM, glas

DEFAULTS = {"k": 15, "sigma_shadow": 3.0, "sigma_map": 3.0, "kernel_norm": False, "lam": LAM, "fill": "black"}
SHORT = "glas_shadow(k=4)"
TINY = "glas_shadow(k=3)"
COST = "1F + 16F"
REFERENCES = {"glas_shadow(k=4)": lambda slow: glas(slow, light=False)}
PASSES = {"glas_shadow(k=4)": (4**2, 0)}
