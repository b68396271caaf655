"""Facts about GLAS by light alone."""

from tests.methods.glas import glas

DEFAULTS = {"k": 15, "sigma_light": 3.0, "sigma_map": 3.0, "kernel_norm": False, "fill": "black"}
SHORT = "glas_light(k=4)"
TINY = "glas_light(k=3)"
COST = "1F + 16F"
REFERENCES = {"glas_light(k=4)": lambda slow: glas(slow, shadow=False)}
PASSES = {"glas_light(k=4)": (4**2, 0)}
