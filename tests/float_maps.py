"""Maps as methods compute them, before anything is stored."""

import hashlib

import torch

from pipeline import engine
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.methods import METHODS
from pipeline.spec.grammar import parse
from pipeline.tables.identity import seed_of
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.entries import facts

LABELS = (0, 1, 2, 3, 4, 0)  # of as many images as there are
# Methods whose defaults would take minutes here, as they are written instead.
SHORT = {name: f"{name}={written}" for name, written in facts("methods", METHODS, "SHORT").items()}


def float_maps(backbone, images, method, target, part=slice(None)):
    pixels = torch.from_numpy(images[part].copy())
    seen, request = run_forward(backbone, backbone.prepare(pixels)), parse(target, TARGETS, "target")
    labels = torch.tensor(LABELS)[: len(images)][part]
    explained = TARGETS[request.name].explain(Predictions(seen.logits, labels), **request.args)
    keys = [(f"{i:08d}", hashlib.sha256(image.tobytes()).hexdigest()) for i, image in enumerate(images)][part]
    scene = Batch(seen, (explained,), pixels, lambda name: [seed_of(0, name, *key) for key in keys])
    return engine.maps(parse(SHORT.get(method, method), METHODS, "method"), scene, 0).detach()


def fitting(backbone):
    return [name for name in METHODS if engine.misfit(parse(name, METHODS, "method"), backbone) is None]
