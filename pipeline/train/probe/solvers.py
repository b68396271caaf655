"""Two ways to a linear classifier on features: Adam with early stopping, as Finer-CAM's released recipe has it, and L-BFGS to convergence.

N images, D features, C classes
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.refusal import Refusal
from pipeline.train.probe.features import Features

ROWS = 8192  # rows held in memory at a time
NEVER = -1e4  # a logit that leaves no probability, and that half precision still holds


class Diverged(Refusal):
    """A solver that ended at weights which are no numbers, or nowhere."""


@dataclass(frozen=True)
class Linear:
    """Logits = x weight^T + bias: weight [C D], bias [C], float32; the solver that made it, its setting, and its epoch or iteration."""

    weight: torch.Tensor
    bias: torch.Tensor
    solver: str
    setting: float
    step: int

    @property
    def finite(self) -> bool:
        """Whether every weight is a number."""
        return bool(self.weight.isfinite().all() and self.bias.isfinite().all())

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [n C] of features [n D]."""
        return F.linear(x, self.weight, self.bias)


def adam(
    train: Features,
    val: Features,
    classes: int,
    *,
    lr: float = 3e-4,
    epochs: int = 20,
    batch: int = 128,
    seed: int = 0,
    report: Callable[[int, float], None] = lambda epoch, accuracy: None,
) -> tuple[Linear, float]:
    """Cross-entropy, no weight decay, no schedule. Returns the epoch with the best top-1 on `val`, the first of equals, and that top-1.

    The order of an epoch follows from the seed and its number. `report` is called with each epoch and its accuracy on `val`. An epoch whose
    weights are no numbers is the last.

    Raises:
        Diverged: where the first epoch is that one.
    """
    rng = torch.Generator().manual_seed(seed)
    bound = train.x.shape[1] ** -0.5  # as torch.nn.Linear starts
    weight, bias = (
        torch.empty(shape).uniform_(-bound, bound, generator=rng).requires_grad_() for shape in ((classes, train.x.shape[1]), (classes,))
    )
    optimiser = torch.optim.Adam([weight, bias], lr=lr)
    best, best_accuracy = Linear(weight.detach().clone(), bias.detach().clone(), "adam", lr, 0), -1.0
    for epoch in range(1, epochs + 1):
        order = np.random.default_rng([seed, epoch]).permutation(len(train))
        for start in range(0, len(order), batch):
            rows = np.sort(order[start : start + batch])
            loss = F.cross_entropy(F.linear(_tensor(train.x[rows]), weight, bias), _labels(train.labels[rows]))
            optimiser.zero_grad()
            loss.backward()
            try:
                optimiser.step()
            except RuntimeError as error:  # the step itself is beyond single precision
                raise Diverged(f"adam diverged at --lr {lr:g}; give a smaller one") from error
        linear = Linear(weight.detach().clone(), bias.detach().clone(), "adam", lr, epoch)
        if not linear.finite:
            break
        top1 = accuracy(linear, val)
        report(epoch, top1)
        if top1 > best_accuracy:
            best, best_accuracy = linear, top1
    if not best.step:
        raise Diverged(f"adam diverged in its first epoch at --lr {lr:g}; give a smaller one")
    return best, best_accuracy


def lbfgs(splits: Sequence[Features], classes: int, *, l2: float = 1.0, iterations: int = 1000, tolerance: float = 1e-5) -> Linear:
    """Multinomial logistic regression, mean cross-entropy + l2 / (2 N) |weight|^2 (scikit-learn's with C = 1 / l2), in double precision.

    Each evaluation streams over the features of all splits. Ends where no component of the gradient exceeds `tolerance`. A class without
    images, whose best bias is minus infinity, gets the logit `NEVER`.

    Raises:
        Diverged: where the weights come out as no numbers, or do not leave their start although its gradient exceeds `tolerance`.
    """
    from scipy.optimize import minimize

    width, count = splits[0].x.shape[1], sum(map(len, splits))
    present = np.unique(np.concatenate([np.unique(features.labels) for features in splits]))
    row_of = torch.from_numpy(np.searchsorted(present, np.arange(classes)))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        W, b = torch.from_numpy(theta.reshape(len(present), width + 1)).split([width, 1], 1)
        total, gradient = 0.0, torch.zeros(len(present), width + 1, dtype=torch.float64)
        for x, labels in chain.from_iterable(map(chunks, splits)):
            x, own = x.double(), row_of[labels]
            logs = F.log_softmax(x @ W.T + b[:, 0], 1)
            total -= logs.gather(1, own[:, None]).sum().item()
            residual = logs.exp() - F.one_hot(own, len(present))
            gradient += torch.cat([residual.T @ x, residual.sum(0)[:, None]], 1)
        gradient[:, :width] += l2 * W
        return (total + l2 / 2 * W.square().sum().item()) / count, (gradient / count).numpy().ravel()

    options = {"maxiter": iterations, "gtol": tolerance, "ftol": 0}
    solution = minimize(loss, np.zeros(len(present) * (width + 1)), jac=True, method="L-BFGS-B", options=options)
    weight, bias = torch.zeros(classes, width), torch.full((classes,), NEVER)
    theta = torch.from_numpy(solution.x.reshape(len(present), width + 1)).float()
    weight[present], bias[present] = theta[:, :width], theta[:, width]
    linear = Linear(weight, bias, "lbfgs", l2, int(solution.nit))
    if not linear.finite or not np.isfinite(solution.fun) or not (solution.nit or solution.success):
        raise Diverged(f"lbfgs diverged at --l2 {l2:g} ({solution.message}); give a larger one")
    return linear


def chunks(features: Features) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features float32 [n D] and labels int64 [n], a few thousand at a time."""
    for start in range(0, len(features), ROWS):
        yield _tensor(features.x[start : start + ROWS]), _labels(features.labels[start : start + ROWS])


def ranks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The number of classes ahead of each label [n], 0 where argmax gives it: the first of equals. A logit that is NaN is behind no other."""
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1]) < labels[:, None]
    ahead = (~(logits <= own) | ((logits == own) & lower)).sum(1)
    return ahead.masked_fill(own[:, 0].isnan(), sys.maxsize)


def accuracy(linear: Linear, features: Features) -> float:
    """Top-1."""
    return sum((ranks(linear.logits(x), labels) < 1).sum().item() for x, labels in chunks(features)) / len(features)


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))


def _labels(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(labels, dtype=np.int64))
