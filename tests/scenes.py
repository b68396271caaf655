"""Batches of images on a network, with what is explained of them, and the maps that methods make of them."""

import numpy as np
import torch

from pipeline import engine
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.engine.runners import path
from pipeline.methods import METHODS
from pipeline.spec.grammar import parse
from pipeline.tables.identity import seed_of
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions


def scene(backbone, pixels, target="label", ids=None, seed=0):
    """Images [B 3 H W] of which image i has the label i modulo 5, or those of them at `ids`, explained for one target."""
    ids = list(range(len(pixels)) if ids is None else ids)
    seen = run_forward(backbone, backbone.prepare(pixels[ids]))
    explained = TARGETS[target].explain(Predictions(seen.logits, torch.tensor(ids) % 5))
    return Batch(seen, (explained,), pixels[ids], lambda name: [1000 * seed + 31 * i + len(name) for i in ids])


def scene_of(backbone, pixels, targets=("label", "finer"), part=slice(None), **how):
    """The same of several targets as written, with the seeds that a job gives; `part` of the images alone."""
    seen = run_forward(backbone, backbone.prepare(pixels[part]))
    answers = Predictions(seen.logits, torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])[: len(pixels)][part])
    explained = tuple(TARGETS[(r := parse(t, TARGETS, "target")).name].explain(answers, **r.args) for t in targets)
    return Batch(seen, explained, pixels[part], lambda name: [seed_of(name, i) for i in range(len(pixels))][part], **how)


def run(written, *where, **how):
    """The maps [B h w] that a method as written makes of a `scene`."""
    return engine.maps(parse(written, METHODS, "method"), scene(*where, **how), 0)


class Counted:
    """A backbone that counts the images passed forwards and backwards."""

    def __init__(self, backbone):
        self.backbone, self.forwards, self.backwards = backbone, 0, 0

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def logits(self, x):
        self.forwards += len(x)
        y = self.backbone.logits(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: setattr(self, "backwards", self.backwards + len(gradient)))
        return y


def captum_draws_ours(monkeypatch, seed, side, samples):
    """captum draws noise, baseline and step through three generators; from here on they return what ours draws. Gives the baselines."""
    draws = path._Draws([seed], (side, side), torch.device("cpu"))
    noise, baselines, steps = [], [], []
    for _ in range(samples):
        noise.append(draws.normal())
        drawn = draws.normal()
        baselines.append(drawn * (draws.uniform() * 21 >= 1))
        steps.append(draws.uniform().item())
    monkeypatch.setattr(torch, "normal", lambda mean, scale: torch.cat(noise) * scale)
    monkeypatch.setattr(np.random, "choice", lambda bank, size: np.arange(size))
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array(steps))
    return torch.cat(baselines)
