"""Heads of a fully convolutional trunk: pooling and a linear layer, or CALM's two branches (Kim et al. 2021).

B images, K channels, C classes, h w cells; z runs over the cells
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.backbones.stated import StatingNetwork

Positive = Literal["softplus", "relu"]
Normaliser = Literal["ordinary", "detached"]
FLOOR = 1e-8
TINY = 1e-37  # float32's smallest power of ten: a logarithm that stays finite where softplus has underflown


def log_classes(f: Tensor) -> Tensor:
    """log g, g_yz = p(y|x,z): softmax over the classes in every cell [B C h w] (section 4.1.1)."""
    return f.log_softmax(1)


def location(a: Tensor, positive: Positive = "softplus", normaliser: Normaliser = "ordinary") -> Tensor:
    """h_z = p(z|x) = r(a_z) / sum_l r(a_l) [B 1 h w]; r is softplus in the paper's text, ReLU in its supplement C.

    The released code lets no gradient through the sum, which is the `detached` normaliser: a can then only grow.
    """
    a = F.softplus(a) if positive == "softplus" else a.relu()
    total = a.sum((2, 3), keepdim=True).clamp(min=FLOOR)
    return a / (total.detach() if normaliser == "detached" else total)


def log_marginal(log_g: Tensor, h: Tensor) -> Tensor:
    """log p(y|x) = log sum_z g_yz h_z [B C]."""
    return (log_g + h.clamp(min=TINY).log()).flatten(2).logsumexp(2)


class Plain(nn.Module):
    """Global average pooling and a linear layer, the network that CAM explains: A [B K h w] -> logits [B C]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(channels, classes)
        _initialise(self)

    def forward(self, A: Tensor) -> Tensor:
        return self.classes(A.mean((2, 3)))


class Calm(nn.Module):
    """CALM's head: A [B K h w] -> log p(y|x) [B C], which are logits whose softmax is p."""

    def __init__(self, channels: int, classes: int, positive: Positive = "softplus", normaliser: Normaliser = "ordinary") -> None:
        super().__init__()
        # the names of the two branches are those of the tensors in stored checkpoints
        self.classes, self.place = nn.Conv2d(channels, classes, 1), nn.Conv2d(channels, 1, 1)
        self.positive, self.normaliser = positive, normaliser
        _initialise(self)

    def forward(self, A: Tensor) -> Tensor:
        return log_marginal(*self.branches(A))

    def branches(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """log g [B C h w] and h [B 1 h w]."""
        return log_classes(self.classes(A)), location(self.place(A), self.positive, self.normaliser)


def _initialise(head: nn.Module) -> None:
    """Xavier-uniform weights, as in the released code; biases are zero."""
    for name, value in head.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(value)
        else:
            nn.init.zeros_(value)


class Headed(StatingNetwork):
    """A fully convolutional trunk and a head on it: x [B 3 H W] -> logits [B C]. It is cut behind its trunk where no layer is named."""

    default_layer = "trunk"

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))
