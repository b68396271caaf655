"""What every method does where nothing is set: the published settings, written down by hand. Those of targets are in test_targets."""

from pipeline.methods import METHODS

SIGMAS = {"sigma_light": 3.0, "sigma_shadow": 3.0, "sigma_map": 3.0}  # GLAS, fine-grained experiments, in units of side / 15
GLAS = {"k": 15, "kernel_norm": False, "fill": "black"}
LAM = 1e-5  # printed as 10^5, with which f_s would be constant
RECTIFIED = {"norm": "relu"}
SHARP = {"blur_ksize": 0}  # CALM's text blurs, its code by a kernel of one pixel
PUBLISHED = {
    # CAM papers: ReLU, no epsilon but where the formula itself has one
    **dict.fromkeys(["cam", "grad_cam", "hires_cam", "layer_cam", "eigen_cam", "fake_cam", "random"], RECTIFIED),
    "grad_cam_pp": RECTIFIED | {"eps": 0.0},
    "xgrad_cam": RECTIFIED | {"eps": 1e-7},
    # Opti-CAM eq. 3 masks pixels with black and takes a softmax over channels
    "score_cam": {"score_norm": "softmax", "fill": "black"},
    "ablation_cam": {},
    # CALM eq. 7; a counterfactual keeps its sign
    "calm": {"map": "attribution", "norm": "minmax"},
    # Opti-CAM appendix A
    "opti_cam": {"steps": 100, "lr": 0.1, "tolerance": 1e-10, "objective": "mask", "normalisation": "range", "scalar": "logit"},
    # RISE's general setting, as TorchRay has it too
    "rise": {"masks": 8000, "cells": 7, "p": 0.5, "fill": "black"},
    "glas": GLAS | SIGMAS | {"lam": LAM},
    "glas_light": GLAS | {"sigma_light": 3.0, "sigma_map": 3.0},
    "glas_shadow": GLAS | {"sigma_shadow": 3.0, "sigma_map": 3.0, "lam": LAM},
    # algorithm 1: t1 and t2; it has no limit to its rounds, ten is ours
    "rglas": GLAS | SIGMAS | {"lam": LAM, "t1": 0.8, "t2": 5.0, "rounds": 10},
    # 44 x 44 positions explain the time that GLAS reports for it
    "occlusion": {"window": 32, "stride": 5, "fill": "mean"},
    # the lime package: quickshift's settings, samples, sqrt(exp(-d^2 / 0.25^2)), ridge
    "lime": {"samples": 1000, "kernel": 4, "max_dist": 200.0, "ratio": 0.2, "width": 0.25, "alpha": 1.0},
    # perturb_explanations: 28 x 28 cells, sums, beta 3, 4 pixels of jitter, the smallest sufficient disc first
    "mask": {
        "steps": 300, "lr": 0.1, "cells": 28, "away": 10.0, "soft": 5.0, "area": 1e-4, "smooth": 1e-2, "beta": 3.0, "jitter": 4,
        "start": "circle",
    },
    # TorchRay
    "extremal": {
        "areas": (0.1,), "steps": 800, "lr": 0.01, "cell": 7, "sigma": 21.0, "away": 20.0, "levels": 8, "weight": 300.0,
        "growth": 1.0035, "smooth": 0.0,
    },
    **dict.fromkeys(["gradient", "deconvnet"], SHARP),
    # captum's 50 points of a Gauss-Legendre rule; `calm` is the other paper's form
    "integrated_gradients": SHARP | {"steps": 50, "form": "canonical", "norm": "relu"},
    # CALM's code: 50 copies, std a quarter of the range
    **dict.fromkeys(["smooth_grad", "var_grad"], SHARP | {"samples": 50, "spread": 0.25}),
    # 20 copies, std 0.09 of the range, 20 normal baselines beside the mean colour
    "gradient_shap": SHARP | {"samples": 20, "spread": 0.09, "baselines": 20},
    "raw_attention": {},
    # from the first block: "all blocks"
    **dict.fromkeys(["rollout", "tibav"], {"start": 0}),
    # the released code's depth 7 is six blocks; temperature 0 is mean |x| / sqrt(d)
    "gem": {"depth": 6, "iterations": 1, "temperature": 0.0},
}  # fmt: skip


def test_nothing_set_is_what_was_published():
    found = {name: {key: parameter.default for key, parameter in entry.parameters.items()} for name, entry in METHODS.items()}
    assert found == PUBLISHED
    values = [(name, key, default) for name, row in PUBLISHED.items() for key, default in row.items()]
    assert all(type(found[name][key]) is type(default) for name, key, default in values), "a whole number is not a float"
