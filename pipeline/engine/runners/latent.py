"""The latent family: a CALM network's own head, read at every cell. One forward serves every map of every target."""

import torch

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch
from pipeline.engine.forward import autocast
from pipeline.engine.shapes import checked
from pipeline.families import METHODS, Latent
from pipeline.spec.grammar import Choice


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if backbone.branches is None:
        return (
            "it reads where a CALM network places the cue, and this network, cut where it is, has no such variable; "
            "train one with jobs.train --head calm_em and name it as train/<checkpoint>, without --layer"
        )
    return None


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map [B h w] of one method for one target."""
    latent: Latent = METHODS[method.name]
    g, h = batch.cached("branches", lambda: _branches(batch, method.alias))
    offers = {"g": g, "h": h, "d": batch.targets[target].directions[:, 0]}
    maps = latent.map(**{name: offers[name] for name in latent.inputs}, **method.args)
    return checked(maps, (len(batch.pixels), *g.shape[2:]))


@torch.no_grad()
def _branches(batch: Batch, payer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """p(y|x,z) [B C h w] and p(z|x) [B 1 h w]."""
    A, branches = batch.forward.A.detach(), batch.backbone.branches
    assert branches is not None, "no other network fits"
    with autocast(A.device, batch.precision):
        log_g, h = branches(A)
    batch.tally[payer, "heads"] += len(A)
    return log_g.float().exp(), h.float()
