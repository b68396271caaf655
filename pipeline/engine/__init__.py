"""Everything that costs a pass through a network. One runner per family, each with `misfit` and `maps`."""

from collections.abc import Sequence

import torch

from pipeline.backbones import Backbone
from pipeline.engine.batch import Batch
from pipeline.engine.runners import attention, cam, captum, latent, masked, optimised, path
from pipeline.families import METHODS
from pipeline.spec.grammar import Choice

RUNNERS = {
    "attention": attention,
    "cam": cam,
    "captum": captum,
    "latent": latent,
    "masked": masked,
    "optimised": optimised,
    "path": path,
}


def misfit(method: Choice, backbone: Backbone, targets: Sequence[Choice] = ()) -> str | None:
    """Why `method` cannot explain this backbone or one of these targets, in words a user can act on; None where it can."""
    entry = METHODS[method.name]
    reason = RUNNERS[entry.family].misfit(method, backbone)
    if reason or entry.family == "cam" or entry.class_free:
        return reason
    odd = next((target.alias for target in targets if not _one_scalar(target)), None)
    return odd and f"target {odd!r} is not one scalar <d, y>, which only the CAM family explains; leave its aggregation and weighting out"


def _one_scalar(target: Choice) -> bool:
    """Whether a target is one direction d that does not depend on the masked pixels, so that <d, y> means the same for every copy."""
    return target.args.get("aggregation", "sum") in ("mean_pre", "sum") and target.args.get("weighting") != "prob"


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The maps of one method for one target of a batch, [B h w] or, for methods whose grid is pixels, [B H W]; after the rectifier."""
    return RUNNERS[METHODS[method.name].family].maps(method, batch, target)
