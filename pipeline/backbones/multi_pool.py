"""Several poolings of one network's tokens from one pass, side by side: the features that several probes are trained on.

B images, D features of one pooling, P poolings
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones.weights import weights_digest
from pipeline.refusal import Refusal


class MultiPool(nn.Module):
    """x [B 3 H W] -> the features of all poolings [B P D], flattened; the first network's trunk alone is passed."""

    num_classes = 0

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.first = next(iter(networks.values()))
        self.trunk = _calling(self.first, "forward_features")
        self.heads = nn.ModuleList(_calling(network, "forward_head") for network in networks.values())
        self.pretrained_cfg = getattr(self.first, "pretrained_cfg", None)
        self.num_prefix_tokens = getattr(self.first, "num_prefix_tokens", None)
        self.origin = getattr(self.first, "origin", None)  # of open_clip's

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.trunk(x)
        return torch.cat([head(tokens) for head in self.heads], 1)


def _calling(network: nn.Module, part: str) -> nn.Module:
    """A network of the same modules whose forward is one of its methods: a trace knows a module by its call."""
    other = copy.copy(network)
    other.forward = getattr(other, part)
    return other


def side_by_side(name: str, networks: Mapping[str, Any]) -> MultiPool:
    """Networks without a classifier that differ in their pooling alone, by its name, as one.

    Raises:
        Refusal: where they differ in their weights, have classes or phrases, or do not part features from pooling.
    """
    if any(getattr(network, "num_classes", 1) or getattr(network, "text_weights", None) is not None for network in networks.values()):
        raise Refusal(
            f"{name} is asked for {len(networks)} poolings at once, which have no classes; give one, or num_classes=0 and no texts"
        )
    if not all(hasattr(network, part) for network in networks.values() for part in ("forward_features", "forward_head")):
        raise Refusal(f"{name} does not part its features from their pooling; give one pooling at a time")
    digests = {pool: weights_digest(network.state_dict()) for pool, network in networks.items()}
    first, *others = digests
    other = next((pool for pool in others if digests[pool] != digests[first]), None)
    if other:
        raise Refusal(f"{name} has other weights when it pools by {other} than by {first}; give one pooling at a time")
    return MultiPool(networks)
