"""One epoch of steepest descent, the same in one process and on many workers.

Every batch is the same set of images whatever the number of workers: each takes its share of it, and the gradients are added up.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from pipeline.monitor.monitor import Monitor
from pipeline.train import descent
from pipeline.train.job import Training
from pipeline.train.learner import Learner


@dataclass(frozen=True)
class Phase:
    """The plan of an epoch.

    Attributes:
        rates: the learning rate of each part that learns (trunk, head), before the schedule.
        fixed_trunk: whether the trunk stays as it is.
        elapsed: epochs of all layers before this one, by which the schedule goes; None in those of the head alone, which have none.
    """

    rates: dict[str, float]
    fixed_trunk: bool
    elapsed: int | None

    @staticmethod
    def of(job: Training, lr: float, epoch: int) -> "Phase":
        """The phase of an epoch, counted from 0, of a training at one learning rate."""
        if epoch < job.head_epochs:
            return Phase({"head": job.head_lr}, fixed_trunk=True, elapsed=None)
        fixed_trunk = job.freeze == "trunk"
        rates = ({} if fixed_trunk else {"trunk": lr}) | {"head": lr * job.head_lr_factor}
        return Phase(rates, fixed_trunk, epoch - job.head_epochs)

    @property
    def starts_at_rest(self) -> bool:
        """Whether the optimiser forgets its momentum: the first epoch of all layers does."""
        return self.elapsed == 0

    def factor(self, job: Training, part: float) -> float:
        """The schedule's factor of the rates when `part` of the epoch, from 0 to 1, is over."""
        return 1.0 if self.elapsed is None else descent.factor(job, self.elapsed + part)


class EpochMeans(NamedTuple):
    """Means over the training images of an epoch, while the network learned: loss, -log p(y|x), accuracy; and how many images."""

    loss: float
    nll: float
    accuracy: float
    images: int


def optimiser_of(learner: Learner, phase: Phase) -> torch.optim.Optimizer:
    """A new optimiser for the parts of the network that learn, a group each; the others need no gradient."""
    learner.network.requires_grad_(True)
    learner.network.trunk.requires_grad_(not phase.fixed_trunk)
    groups = [{"params": list(getattr(learner.network, part).parameters()), "lr": lr} for part, lr in phase.rates.items()]
    return descent.optimiser(learner.checked.job, groups)


def train_epoch(learner: Learner, phase: Phase, optimiser: torch.optim.Optimizer, epoch: int, monitor: Monitor | None = None) -> EpochMeans:
    """Train on every training image once."""
    job, team, images = learner.checked.job, learner.team, learner.images
    parameters = [value for group in optimiser.param_groups for value in group["params"]]
    sums = torch.zeros(4, dtype=torch.float64, device=learner.device)
    order = images.order(epoch)
    batches = [order[start : start + job.batch_size] for start in range(0, len(order), job.batch_size)]
    learner.set_mode(training=True, fixed_trunk=phase.fixed_trunk)
    for step, batch in enumerate(batches):
        for group, lr in zip(optimiser.param_groups, phase.rates.values(), strict=True):
            group["lr"] = lr * phase.factor(job, step / len(batches))
        optimiser.zero_grad(set_to_none=True)
        share = batch[team.rank :: team.size]
        if share:
            loss, nll, right = learner.batch_loss(share, epoch, phase.fixed_trunk)
            (loss.sum() / len(batch)).backward()
            sums += torch.stack([loss.detach().double().sum(), nll, right, right.new_tensor(len(share))])
        team.add_gradients(parameters)
        if job.clip:
            torch.nn.utils.clip_grad_norm_(parameters, job.clip)
        optimiser.step()
        if monitor:
            monitor.add(len(batch))
    team.average([buffer for buffer in learner.network.buffers() if buffer.is_floating_point()])
    loss, nll, right, count = team.add(sums).tolist()
    return EpochMeans(loss / count, nll / count, right / count, int(count))
