"""Facts about Opti-CAM. Its formula in double precision is in tests/references/optimised.py."""

# Opti-CAM appendix A
DEFAULTS = {
    "steps": 100, "lr": 0.1, "tolerance": 1e-10, "objective": "mask", "normalisation": "range", "scalar": "logit", "rectified": False,
}  # fmt: skip
SHORT = "opti_cam(steps=5)"
TINY = "opti_cam(steps=2)"
COST = "1F + 5F + 5B"
COUNTED = "opti_cam(steps=5,tolerance=0)"  # with one an image may stop early, which costs less
