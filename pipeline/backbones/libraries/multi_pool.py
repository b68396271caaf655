"""Several poolings of one network's tokens from one pass, side by side: what several probes are trained on.

B images, D features of one pooling, P poolings
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.backbones import weights as weight_files
from pipeline.refusal import Refusal


class Pools(nn.Module):
    """x [B 3 H W] -> the features of all poolings [B P D], flattened; the first network's trunk alone is passed."""

    num_classes = 0

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.first = next(iter(networks.values()))
        self.trunk = _called_by(self.first, "forward_features")
        self.heads = nn.ModuleList(_called_by(network, "forward_head") for network in networks.values())
        self.pretrained_cfg = getattr(self.first, "pretrained_cfg", None)
        self.num_prefix_tokens = getattr(self.first, "num_prefix_tokens", None)
        self.origin = getattr(self.first, "origin", None)  # of open_clip's

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.trunk(x)
        return torch.cat([head(tokens) for head in self.heads], 1)


def _called_by(network: nn.Module, part: str) -> nn.Module:
    """The network with the same modules, of which a call is one of its methods: a call is what a trace knows a module by."""
    called = copy.copy(network)
    called.forward = getattr(called, part)
    return called


def side_by_side(name: str, networks: Mapping[str, nn.Module]) -> Pools:
    """Networks without a classifier that differ in their pooling alone, by its name, as one.

    Raises:
        Refusal: where they differ in their weights, have classes or phrases, or do not part features from pooling.
    """
    if any(network.num_classes or getattr(network, "rows", None) is not None for network in networks.values()):
        raise Refusal(
            f"{name} is asked for {len(networks)} poolings at once, which have no classes; give one, or num_classes=0 and no texts"
        )
    if not all(hasattr(network, part) for network in networks.values() for part in ("forward_features", "forward_head")):
        raise Refusal(f"{name} does not part its features from their pooling; give one pooling at a time")
    digests = {pool: weight_files.digest(network.state_dict()) for pool, network in networks.items()}
    first, *others = digests
    other = next((pool for pool in others if digests[pool] != digests[first]), None)
    if other:
        raise Refusal(f"{name} has other weights when it pools by {other} than by {first}; give one pooling at a time")
    return Pools(networks)
