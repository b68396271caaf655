"""The CAM family: pure algebra on one forward, for every method and target of a batch."""

import torch

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch
from pipeline.engine.shapes import checked
from pipeline.families import METHODS, Cam, parameters, rectify
from pipeline.maps.render import units
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if "weights" in METHODS[method.name].inputs and backbone.pooled_linear is None:
        return "it weights channels by a linear classifier behind global pooling, and this cut has none; use grad_cam"
    return None


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map [B h w] of one method for one target, after the rectifier, its directions joined as the target says.

    max_pre is the largest over the directions before the rectifier, mean_post the mean after it (Finer-CAM supplement table 7),
    sum_unit the sum after it and min-max of the cells (CALM section 5.4).
    """
    cam: Cam = METHODS[method.name]
    norm, settings = method.args["norm"], {name: method.args[name] for name in parameters(cam.map)}
    explained = batch.targets[target]
    count = 1 if cam.class_free else explained.directions.shape[1]
    plain = [_map(method.alias, cam, batch, target, direction, settings) for direction in range(count)]
    if explained.join == "mean_post":
        return torch.stack([rectify(m, norm) for m in plain]).mean(0)
    if explained.join == "sum_unit":
        return torch.stack([units(rectify(m, norm)) for m in plain]).sum(0)
    return rectify(torch.stack(plain).amax(0), norm)


def _map(payer: str, cam: Cam, batch: Batch, target: int, direction: int, settings: dict) -> torch.Tensor:
    """The map [B h w] for one direction of a target, before the rectifier."""
    offers = {
        "A": lambda: batch.forward.A.detach().float(),
        "dA": lambda: batch.gradients(target, payer)[direction],
        "weights": lambda: batch.weights(target)[direction],
        "noise": lambda: batch.noise(cam.name),
        "size": lambda: batch.size,
    }
    grid = batch.size if cam.grid == "pixels" else batch.forward.A.shape[2:]
    plain = cam.map(**{name: offers[name]() for name in cam.inputs}, **settings)
    return checked(plain, (len(batch.pixels), *grid))
