"""The losses of the heads. Every loss is one number an image.

B images, C classes, h w cells; z runs over the cells, y is the label
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.backbones.heads import FLOOR, Headed, log_marginal


def marginal(log_g: Tensor, h: Tensor, labels: Tensor) -> Tensor:
    """-log sum_z g_yz h_z [B]: CALM-ML (Kim et al. 2021, eq. 3 and 4)."""
    return -log_marginal(log_g, h).gather(1, labels[:, None])[:, 0]


def expected(log_g: Tensor, h: Tensor, labels: Tensor) -> Tensor:
    """-sum_z q_z (log g_yz + log h_z), q_z = p(z|x,y) without a gradient [B]: CALM-EM (eq. 5 and 6), never below `marginal`.

    q comes from the present weights, as the paper says of its practice (theta' = theta). The value is then that of `marginal` plus q's
    entropy, and its gradient is that of `marginal`: both heads take the same steps. They would part with q of older weights (the
    slowly updated copy of EM, which the paper names and does not use), or if q kept its gradient, which adds the entropy's: the cue
    would be driven into fewer cells. As it is, only log h's floor and rounding tell them apart.
    """
    own = log_g[torch.arange(len(labels), device=labels.device), labels].flatten(1)
    log_joint = own + h.flatten(1).clamp(min=FLOOR).log()
    q = log_joint.detach().softmax(1)
    return -(q * log_joint).sum(1)


def loss(kind: str, network: Headed, A: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The head's loss [B] and its logits [B C]."""
    if kind == "plain":
        logits = network.head(A)
        return F.cross_entropy(logits, labels, reduction="none"), logits
    branches = cast(Callable[[Tensor], tuple[Tensor, Tensor]], network.head.branches)
    log_g, h = branches(A)
    calm_loss = marginal if kind == "calm_ml" else expected
    return calm_loss(log_g, h, labels), log_marginal(log_g, h)
