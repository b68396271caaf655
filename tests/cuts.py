"""A network that was cut in two, passed in two halves or at once."""

import torch

from pipeline.backbones import Backbone


def by_halves(backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return backbone.head(*backbone.trunk(x))


def at_once(backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return backbone.logits(x)
