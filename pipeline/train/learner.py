"""The network of a training on one worker, and its passes over the images.

B images of a batch, K channels, C classes, h w cells
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.backbones.heads import Headed
from pipeline.train import losses
from pipeline.train.check import CheckedTraining, initial_network
from pipeline.train.data import Images
from pipeline.train.features import IMAGES_AT_ONCE, network_input, trunk_features
from pipeline.train.team import Team


class Evaluation(NamedTuple):
    """The mean of -log p(y|x) and the accuracy over some images; None where there are none."""

    loss: float | None
    accuracy: float | None


class BatchLoss(NamedTuple):
    """The loss of each image [B], and sums over the batch: of -log p(y|x), which EM's loss bounds, and of right predictions."""

    loss: Tensor
    nll: Tensor
    right: Tensor


@dataclass
class Learner:
    """The network of one training on one worker."""

    checked: CheckedTraining
    images: Images
    team: Team
    device: torch.device

    @cached_property
    def network(self) -> Headed:
        """The network, which starts the same on every worker."""
        return initial_network(self.checked).to(self.device)

    @cached_property
    def features(self) -> np.ndarray | None:
        """A frozen trunk's maps of every image [N K h w], computed once for all rates and heads; None where the trunk learns."""
        if self.checked.job.freeze != "trunk":
            return None
        return trunk_features(self.checked, self.network.trunk, self.images, self.team)

    def set_mode(self, training: bool, fixed_trunk: bool = False) -> None:
        """Training mode, except where the trunk, or the statistics of its BatchNorm, are fixed."""
        self.network.train(training)
        if fixed_trunk:
            self.network.trunk.eval()
        for module in self.network.trunk.modules():
            if self.checked.frozen_norm and isinstance(module, _BatchNorm):
                module.eval()

    def batch_loss(self, rows: Sequence[int], epoch: int, fixed_trunk: bool) -> BatchLoss:
        """The loss of some training images, cropped as the epoch has it."""
        with torch.set_grad_enabled(not fixed_trunk):
            A = self._trunk_map(rows, epoch)
        labels = self._labels(rows)
        loss, logits = losses.loss(self.checked.recipe.head, self.network, A, labels)
        nll = cross_entropy(logits.detach().double(), labels, reduction="sum")
        return BatchLoss(loss, nll, _right(logits, labels))

    @torch.no_grad()
    def evaluate(self, rows: Sequence[int]) -> Evaluation:
        """Measure the network in the mode it will be used in, over some images; all workers share them."""
        self.set_mode(training=False)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # -log p, right predictions, images
        share = rows[self.team.rank :: self.team.size]
        for start in range(0, len(share), IMAGES_AT_ONCE):
            batch = share[start : start + IMAGES_AT_ONCE]
            logits, labels = self.network.head(self._trunk_map(batch)), self._labels(batch)
            right = _right(logits, labels)
            sums += torch.stack([cross_entropy(logits.double(), labels, reduction="sum"), right, right.new_tensor(len(batch))])
        loss, right, count = self.team.add(sums).tolist()
        return Evaluation(loss / count, right / count) if count else Evaluation(None, None)

    def _trunk_map(self, rows: Sequence[int], epoch: int | None = None) -> Tensor:
        """The trunk's maps [B K h w] of some images, or of their crops in an epoch; from the file of features where there is one."""
        if self.features is not None:
            features = torch.from_numpy(self.features[list(rows)]).to(self.device)
            return features.contiguous(memory_format=torch.channels_last).float()  # turned before it is widened: a 1x1 head twice as fast
        pixels = self.images.inputs[list(rows)] if epoch is None else self.images.crops(rows, epoch)
        return self.network.trunk(network_input(self.checked, self.device, pixels))

    def _labels(self, rows: Sequence[int]) -> Tensor:
        return torch.from_numpy(self.images.labels[list(rows)]).to(self.device)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of images whose largest logit is that of their label; where one is NaN, argmax finds it, and none is the largest."""
    best = logits.max(1)
    return ((best.indices == labels) & ~best.values.isnan()).sum().double()
