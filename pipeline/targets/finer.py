"""A class against its most similar ones (Finer-CAM eq. 5 and 8).

B images, C classes, T directions
"""

from typing import Literal

import torch
import torch.nn.functional as F

from pipeline.refusal import Refusal
from pipeline.targets.registry import Directions, Predictions, target
from pipeline.targets.rivals import most_similar, ranked


@target("finer")
def finer(
    answers: Predictions,
    *,
    gamma: float = 0.6,
    T: int = 3,
    rank: int = 1,
    reference: Literal["logit_rank", "logit_distance", "weight_cosine"] = "logit_rank",
    weighting: Literal["uniform", "prob_detached", "prob"] = "uniform",
    aggregation: Literal["mean_pre", "max_pre", "mean_post"] = "mean_pre",
) -> Directions:
    """The class against its T most similar ones: y_c - gamma y_d, averaged over d before the rectifier (Finer-CAM eq. 5 and 8).

    `rank` leaves out the classes that are more similar: with T=1, 1, 2 and 3 are the second, third and fourth prediction of an image whose
    class is the first (its table of references).
    `prob` lets the gradient flow through the weights as the released code does; it is still one direction, the gradient of the
    weighted scalar with respect to the logits.
    """
    logits, class_id = answers.logits, answers.main
    if not 1 <= T < logits.shape[1]:
        raise Refusal(f"finer.T is {T}; the network has {logits.shape[1]} classes, so it must be 1 to {logits.shape[1] - 1}")
    if not 1 <= rank <= logits.shape[1] - T:
        raise Refusal(f"finer.rank is {rank}; with {T} references among {logits.shape[1]} classes it must be 1 to {logits.shape[1] - T}")
    if aggregation != "mean_pre" and weighting != "uniform":
        raise Refusal(f"finer.aggregation={aggregation} joins maps without weights; use weighting=uniform")
    references = most_similar(answers, class_id, reference)[:, rank - 1 : rank - 1 + T]
    own = F.one_hot(class_id, logits.shape[1]).to(logits.dtype)[:, None]
    apart = own - gamma * F.one_hot(references, logits.shape[1]).to(logits.dtype)
    if aggregation != "mean_pre":
        return Directions(apart, class_id, references, gamma, aggregation)
    if weighting == "uniform":
        directions = apart.mean(1, keepdim=True)
    else:
        directions = _weigh(logits, apart, references, detached=weighting == "prob_detached")
    return Directions(directions, class_id, references, gamma)


def _weigh(logits: torch.Tensor, apart: torch.Tensor, references: torch.Tensor, detached: bool) -> torch.Tensor:
    """Gradient with respect to the logits of sum_d p_d <apart_d, y> / (sum_d p_d + 1e-9) [B 1 C]."""
    with torch.enable_grad():
        y = logits.detach().clone().requires_grad_()
        p = y.softmax(1).gather(1, references)
        weights = p / (p.sum(1, keepdim=True) + 1e-9)
        scalar = ((weights.detach() if detached else weights) * torch.einsum("btc,bc->bt", apart, y)).sum()
        return torch.autograd.grad(scalar, y)[0][:, None]


@target("reverse")
def reverse(answers: Predictions) -> Directions:
    """Traits of the most similar class that the image shows: y_d - y_c (Finer-CAM supplement C.5)."""
    class_id = answers.main
    rival = ranked(answers.logits, class_id)[:, :1]
    classes = answers.logits.shape[1]
    directions = F.one_hot(rival, classes) - F.one_hot(class_id, classes)[:, None]
    return Directions(directions.to(answers.logits.dtype), class_id, rival, 1.0)
