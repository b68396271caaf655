"""Similarity of the classes of a network by its linear classifier (Finer-CAM supplement, eq. 11-12; E39).

C classes, D features
"""

import torch

from pipeline.backbones import Backbone
from pipeline.refusal import Refusal

ROWS = 1024


def classifier(backbone: Backbone) -> torch.Tensor:
    """The weights of the classes [C D].

    Raises:
        Refusal: where the logits are not made by a linear layer of at least two classes, or its weights are no numbers.
    """
    weights = backbone.class_weights()
    if weights is None or len(weights) < 2:
        raise Refusal(f"{backbone.name} has no linear classifier of two or more classes, whose rows could be compared")
    if not weights.isfinite().all():
        raise Refusal(f"the classifier of {backbone.name} holds NaN or infinity, so its rows cannot be compared")
    return weights


def sorted_cosines(weights: torch.Tensor) -> torch.Tensor:
    """Rows [C D] -> cosines of each with the others, falling [C C-1], in double precision."""
    units = torch.nn.functional.normalize(weights.double(), dim=1)
    rows = []
    for chunk in torch.arange(len(units), device=units.device).split(ROWS):
        cosines = units[chunk] @ units.T
        rows.append(cosines.scatter(1, chunk[:, None], -torch.inf).sort(1, descending=True).values[:, :-1])
    return torch.cat(rows)
