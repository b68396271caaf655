"""The CAM family: pure algebra on one look, for every method and target of a batch."""

import torch

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch
from pipeline.families import METHODS, Cam, rectify
from pipeline.maps.render import units
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if "weights" in METHODS[method.name].asks and backbone.pooled_linear is None:
        return "it weights channels by a linear classifier behind global pooling, and this cut has none; use grad_cam"
    return None


def maps(method: Choice, scene: Batch, target: int) -> torch.Tensor:
    """The map [B h w] of one method for one target, after the rectifier, its directions joined as the target says.

    max_pre is the largest over the directions before the rectifier, mean_post the mean after it (Finer-CAM supplement table 7),
    sum_unit the sum after it and min-max of the cells (CALM section 5.4).
    """
    cam: Cam = METHODS[method.name]
    settings = method.args
    norm = settings.pop("norm")
    explained = scene.targets[target]
    each = [_one(method.alias, cam, scene, target, t, settings) for t in range(1 if cam.class_free else explained.directions.shape[1])]
    if explained.join == "mean_post":
        return torch.stack([rectify(m, norm) for m in each]).mean(0)
    if explained.join == "sum_unit":
        return torch.stack([units(rectify(m, norm)) for m in each]).sum(0)
    return rectify(torch.stack(each).amax(0), norm)


def _one(payer: str, cam: Cam, scene: Batch, target: int, direction: int, settings: dict) -> torch.Tensor:
    offered = {
        "A": lambda: scene.look.A.detach().float(),
        "dA": lambda: scene.gradients(target, payer)[direction],
        "weights": lambda: scene.weights(target)[direction],
        "noise": lambda: scene.noise(cam.name),
        "size": lambda: scene.size,
    }
    return cam.map(**{name: offered[name]() for name in cam.asks}, **settings)
