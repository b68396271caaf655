"""The classes that another is told from: by logit, by distance of logits, by the classifier's rows.

B images, C classes, D features
"""

import torch
import torch.nn.functional as F

from pipeline.refusal import Refusal
from pipeline.targets.registry import Predictions


def ranked(scores: torch.Tensor, class_id: torch.Tensor) -> torch.Tensor:
    """Classes other than `class_id` by falling score [B C-1]; ties go to the lower class."""
    others = scores.scatter(1, class_id[:, None], -torch.inf)
    return others.sort(dim=1, descending=True, stable=True).indices[:, :-1]


def most_similar(answers: Predictions, class_id: torch.Tensor, rule: str) -> torch.Tensor:
    """All other classes, most similar first, by one of the three rules in use for Finer-CAM."""
    if rule == "logit_rank":
        return ranked(answers.logits, class_id)
    if rule == "logit_distance":
        return ranked(-(answers.logits - answers.logits.gather(1, class_id[:, None])).abs(), class_id)
    weights = answers.class_weights()
    if weights is None:
        raise Refusal("reference=weight_cosine compares the rows of a last linear layer, and this network has none; use logit_rank")
    return ranked_by_weights(weights, class_id)


def ranked_by_weights(weights: torch.Tensor, class_id: torch.Tensor) -> torch.Tensor:
    """The classes most similar to each of `class_id` [B], by the cosines of a classifier's rows [C D], most similar first [B C-1]."""
    rows = F.normalize(weights.float(), dim=1)
    return ranked(rows[class_id] @ rows.T, class_id)


def rivals(answers: Predictions) -> torch.Tensor:
    """The class next to the scored one in Finer-CAM's relative drop [B 2]: by logits, and by weights; -1 where there is no such class."""
    absent = torch.full_like(answers.labels, -1)
    if answers.logits.shape[1] < 2:
        return torch.stack([absent, absent], 1)
    close = absent if answers.class_weights() is None else most_similar(answers, answers.main, "weight_cosine")[:, 0]
    return torch.stack([most_similar(answers, answers.main, "logit_rank")[:, 0], close], 1)
