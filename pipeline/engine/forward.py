"""One forward of a batch: the trunk once, the head once, and one head-backward per explained direction.

B images, K channels, h w cells, C classes, T directions
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from pipeline.backbones import Backbone

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context a network is run in; fp32 is exactly the network as it is."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


@dataclass(frozen=True)
class Forward:
    """Activations [B K h w], logits [B C] float32 and feature [B D] of a batch.

    `graph` holds the head's logits for its gradient, `rest` the head's inputs beside A.
    """

    backbone: Backbone
    A: torch.Tensor
    logits: torch.Tensor
    feature: torch.Tensor
    graph: torch.Tensor | None
    rest: tuple[torch.Tensor, ...] = ()

    def gradients(self, directions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """d<direction, y>/dA for each direction [B C], each [B K h w].

        Where the head is pooling + linear this is the closed form W^T d / (h w), the same in every cell.
        """
        if self.graph is None:
            cells = self.A.shape[2] * self.A.shape[3]
            weights = self.backbone.pooled_linear
            assert weights is not None, "a head without a closed form keeps its graph"
            return [((d @ weights) / cells)[:, :, None, None].expand_as(self.A) for d in directions]
        scalars = [(d * self.graph).sum() for d in directions]
        return [torch.autograd.grad(scalar, self.A, retain_graph=True)[0].float() for scalar in scalars]

    def at(self, positions: Sequence[int], precision: str) -> "Forward":
        """The forward of some of the images. The trunk is not passed again, and the head only where its gradient needs a graph."""
        index = list(positions)
        A, rest = self.A.detach()[index], tuple(tensor[index] for tensor in self.rest)
        graph = None
        if self.graph is not None:
            A.requires_grad_()
            with autocast(A.device, precision), torch.enable_grad():
                graph, _ = self.backbone.readout(A, rest)
        return Forward(self.backbone, A, self.logits[index], self.feature[index], graph, rest)


def run_forward(backbone: Backbone, x: torch.Tensor, precision: str = "fp32") -> Forward:
    """Pass a prepared batch [B 3 H W] through trunk and head, once each.

    The head's graph is kept wherever its gradient has no closed form, needed or not: attention kernels differ in their last digits with
    and without one, and a prediction must not depend on the methods beside it.
    """
    with autocast(x.device, precision):
        with torch.no_grad():
            A, rest = backbone.trunk(x)
        differentiable = backbone.pooled_linear is None
        A = A.detach().requires_grad_(differentiable)
        with torch.set_grad_enabled(differentiable):
            graph, feature = backbone.readout(A, rest)
    logits, feature = graph.detach().float(), feature.detach().float()
    return Forward(backbone, A if differentiable else A.float(), logits, feature, graph if differentiable else None, rest)
