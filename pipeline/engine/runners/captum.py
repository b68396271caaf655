"""The captum family: any attribution object of captum, about one scalar for each image.

n rows of a pass, B images, C classes, H W pixels of the network's input
"""

import copy
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.own_cut import OwnCut
from pipeline.backbones.cutting.reachable import holdings
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.budget import budget_of, within_budget
from pipeline.engine.forward import autocast, run_forward
from pipeline.families import METHODS, Attribution
from pipeline.maps.render import upsample
from pipeline.refusal import Refusal, one_line
from pipeline.spec.grammar import Choice
from pipeline.targets.registry import Directions


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot, by the test of one grey image."""
    pixels = torch.full((1, 3, *backbone.image_size), 127, dtype=torch.uint8, device=backbone.device)
    forward = run_forward(backbone, backbone.prepare(pixels))
    direction = torch.zeros_like(forward.logits)
    direction[:, 0] = 1
    explained = Directions(direction[:, None], torch.zeros(1, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long))
    try:
        maps(method, Batch(forward, (explained,), pixels, lambda name: [0]), 0)
    except Refusal as refusal:
        return str(refusal)
    except Exception as error:  # captum and the user's code
        return f"captum fails on this network ({type(error).__name__}: {one_line(error)})"
    return None


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map [B H W] of one method for one target: the attribution of each pixel or cell, summed over the channels, rectified."""
    entry: Attribution = METHODS[method.name]
    settings = {**method.args, **entry.fixed}
    colours, budget = settings.pop("colours"), budget_of(batch, method.alias, "backward")
    attribution = entry.make(_Scalar(batch, method.alias))
    splits = "internal_batch_size" in inspect.signature(attribution.attribute).parameters and "internal_batch_size" not in settings
    x, directions = batch.backbone.prepare.normalise(pixels_of(batch)), batch.targets[target].directions[:, 0]
    seeds = batch.seeds(method.name)
    maps: list[torch.Tensor] = []

    def one_pass(start: int, stop: int) -> None:
        part, rows = x[start:stop].detach().requires_grad_(), {"internal_batch_size": budget.rows} if splits else {}
        with torch.enable_grad(), _seeded(seeds[start], entry, x.device):
            values = attribution.attribute(part, additional_forward_args=(directions[start:stop],), **settings, **rows)
        if not isinstance(values, torch.Tensor) or values.ndim != 4 or len(values) != len(part):
            kind = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise Refusal(f"it attributes {kind} to an input {list(part.shape)}; wrap an attribution of pixels or of a layer's cells")
        values = values.detach().float()
        map = values.sum(1).relu() if colours == "sum" else values.abs().amax(1)
        cells = tuple(map.shape[1:]) != batch.size  # of a layer, not pixels
        maps.append(upsample(map, batch.size, batch.backbone.drawing("bilinear") if cells else "bilinear"))

    within_budget(batch, len(x), one_pass, method.alias, "backward", most=1 if entry.draws else None)
    return torch.cat(maps)


class _Scalar(nn.Module):
    """(x [n 3 H W], d [n C]) -> <d, y> [n]. captum repeats d as it repeats x, so that every row keeps its own direction.

    It computes on copies of the network's modules that share its weights: hooks that captum leaves on modules go with the copy.
    """

    def __init__(self, batch: Batch, payer: str):
        super().__init__()
        cut = batch.backbone.cut
        modules = _modules(cut)
        others = cut.tensors.values() if isinstance(cut, OwnCut) else ()
        weights = {id(value): value for value in (*modules.parameters(), *modules.buffers(), *others)}
        self._batch, self._payer, self._cut = batch, payer, [copy.deepcopy(cut, weights)]
        self.network = _modules(self._cut[0])
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                setattr(module, "inplace", False)  # noqa: B010 (hooks on a module do not bear an input that changes)

    def forward(self, x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        cut, tally = self._cut[0], self._batch.tally
        tally[self._payer, "forwards"] += len(x)
        with autocast(x.device, self._batch.precision):
            y = cut.head(*cut.trunk(x)).float()
        if y.requires_grad:
            y.register_hook(lambda gradient: tally.update({(self._payer, "backwards"): len(gradient)}))
        return (d * y).sum(1)


def _modules(cut: Cut | OwnCut) -> nn.Module:
    """The modules of a cut: itself, or those of the user's object."""
    if isinstance(cut, nn.Module):
        return cut
    return nn.ModuleList(holdings(cut.network).outermost())


@contextmanager
def _seeded(seed: int, entry: Attribution, device: torch.device) -> Iterator[None]:
    """Draw random numbers from one image's seed, and restore their state; captum's warnings, which are about our own arguments, are silenced.

    Raises:
        Refusal: where numbers are drawn and the entry does not say so, since they would depend on the image's neighbours.
    """
    state = np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        before = _states(device)
        try:
            yield
            if not entry.draws and _states(device) != before:
                raise Refusal(f"it draws random numbers; write captum_method({entry.name!r}, ..., draws=True)")
        finally:
            np.random.set_state(state)


def _states(device: torch.device) -> tuple:
    """The states of the random numbers that captum may draw."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    _, keys, position, *rest = np.random.get_state()
    return (*(bytes(state.numpy()) for state in states), bytes(np.asarray(keys)), position, *rest)
