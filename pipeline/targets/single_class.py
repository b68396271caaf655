"""One class, or none.

B images
"""

import torch

from pipeline.refusal import Refusal
from pipeline.targets.registry import Directions, Predictions, one_hot_directions, target
from pipeline.targets.rivals import ranked


@target("label", needs_label=True)
def label(answers: Predictions) -> Directions:
    """The ground truth."""
    return one_hot_directions(answers.labels, answers.logits)


@target("predicted")
def predicted(answers: Predictions) -> Directions:
    """The class with the highest logit."""
    return one_hot_directions(answers.predicted, answers.logits)


@target("second")
def second(answers: Predictions) -> Directions:
    """The class with the second highest logit (Opti-CAM table A9)."""
    return one_hot_directions(ranked(answers.logits, answers.predicted)[:, 0], answers.logits)


@target("least")
def least(answers: Predictions) -> Directions:
    """The class with the lowest logit (Opti-CAM table A9)."""
    return one_hot_directions(answers.logits.argmin(1), answers.logits)


@target("class", takes_argument="<id>")
def one_class(answers: Predictions, argument: str) -> Directions:
    """The same class for every image."""
    classes = answers.logits.shape[1]
    if not argument.strip().isdigit() or int(argument) >= classes:
        raise Refusal(f"target class:{argument}: the network's classes are 0 to {classes - 1}")
    return one_hot_directions(torch.full_like(answers.labels, int(argument)), answers.logits)


@target("none")
def none(answers: Predictions) -> Directions:
    """No class: what class-free methods are computed for."""
    nobody = torch.full_like(answers.labels, -1)
    directions = answers.logits.new_zeros(len(nobody), 0, answers.logits.shape[1])
    return Directions(directions, nobody, nobody.new_empty(len(nobody), 0), by_class=False)
