"""How alike a network's classes are to its classifier (Finer-CAM supplement, eq. 11-12; E39).

C classes, D features
"""

import pyarrow as pa
import torch

from pipeline.backbones import Backbone
from pipeline.refusal import Refusal
from pipeline.tables import schema

ROWS = 1024


@torch.no_grad()
def weight_similarity(backbone: Backbone) -> pa.Table:
    """Cosines of each class's weights with those of all other classes, most similar first: their mean and standard deviation over classes.

    Returns:
        Rows of the form of `curves`: metrics `weight_similarity` and `weight_similarity_std`, step 0 for the most similar class.

    Raises:
        Refusal: where the logits are not made by a linear layer of at least two classes.
    """
    weights = classifier(backbone)
    curves = sorted_cosines(weights)
    told = {"weight_similarity": curves.mean(0), "weight_similarity_std": curves.std(0)}
    rows = [
        {"model": backbone.name, "metric": name, "step": step, "mean": value, "n": len(weights)}
        for name, curve in told.items()
        for step, value in enumerate(curve.tolist())
    ]
    return pa.Table.from_pylist(rows, schema.CURVES)


def classifier(backbone: Backbone) -> torch.Tensor:
    """The weights of the classes [C D].

    Raises:
        Refusal: where the logits are not made by a linear layer of at least two classes.
    """
    weights = backbone.class_weights()
    if weights is None or len(weights) < 2:
        raise Refusal(f"{backbone.name} has no linear classifier of two or more classes, whose rows could be compared")
    return weights


def sorted_cosines(weights: torch.Tensor) -> torch.Tensor:
    """Rows [C D] -> cosines of each with the others, falling [C C-1], in double precision."""
    units = torch.nn.functional.normalize(weights.double(), dim=1)
    rows = []
    for some in torch.arange(len(units), device=units.device).split(ROWS):
        cosines = units[some] @ units.T
        rows.append(cosines.scatter(1, some[:, None], -torch.inf).sort(1, descending=True).values[:, :-1])
    return torch.cat(rows)
