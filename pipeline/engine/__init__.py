"""Everything that costs a pass through a network. One file per family, each with `misfit` and `maps`."""

import torch

from pipeline.backbones import Backbone
from pipeline.engine import cam
from pipeline.engine.scene import Scene
from pipeline.families import METHODS
from pipeline.requests import Request

FAMILIES = {"cam": cam}


def misfit(method: Request, backbone: Backbone) -> str | None:
    """Why `method` cannot explain this backbone, in words a user can act on; None where it can."""
    return FAMILIES[METHODS[method.name].family].misfit(method, backbone)


def maps(method: Request, scene: Scene, target: int) -> torch.Tensor:
    """The maps of one method for one target of a batch, [B h w] or, for methods whose grid is pixels, [B H W]; after the rectifier."""
    return FAMILIES[METHODS[method.name].family].maps(method, scene, target)
