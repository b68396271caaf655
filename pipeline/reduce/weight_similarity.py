"""The similarity of a network's classes in the weights of its classifier (Finer-CAM supplement, eq. 11-12; E39).

C classes, D features
"""

import pyarrow as pa
import torch

from pipeline.backbones import Backbone
from pipeline.backbones.similarity import classifier, sorted_cosines
from pipeline.tables import schema


@torch.no_grad()
def weight_similarity(backbone: Backbone) -> pa.Table:
    """Cosines of each class's weights with those of all other classes, most similar first: their mean and standard deviation over classes.

    Returns:
        Rows of the table `curves`: metrics `weight_similarity` and `weight_similarity_std`, step 0 for the most similar class.

    Raises:
        Refusal: where the logits are not made by a linear layer of at least two classes.
    """
    weights = classifier(backbone)
    cosines = sorted_cosines(weights)
    curves = {"weight_similarity": cosines.mean(0), "weight_similarity_std": cosines.std(0)}
    rows = [
        {"model": backbone.name, "metric": name, "step": step, "mean": value, "n": len(weights)}
        for name, curve in curves.items()
        for step, value in enumerate(curve.tolist())
    ]
    return pa.Table.from_pylist(rows, schema.CURVES)
