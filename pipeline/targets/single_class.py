"""One class, or none.

B images
"""

import torch

from pipeline.refusal import Refusal
from pipeline.targets.registry import Answers, Explained, _plain, target
from pipeline.targets.rivals import _ranked


@target("label")
def label(answers: Answers) -> Explained:
    """The ground truth."""
    return _plain(answers.labels, answers.logits)


@target("predicted")
def predicted(answers: Answers) -> Explained:
    """The class with the highest logit."""
    return _plain(answers.predicted, answers.logits)


@target("second")
def second(answers: Answers) -> Explained:
    """The class with the second highest logit (Opti-CAM table A9)."""
    return _plain(_ranked(answers.logits, answers.predicted)[:, 0], answers.logits)


@target("least")
def least(answers: Answers) -> Explained:
    """The class with the lowest logit (Opti-CAM table A9)."""
    return _plain(answers.logits.argmin(1), answers.logits)


@target("class", takes_argument="<id>")
def one_class(answers: Answers, argument: str) -> Explained:
    """The same class for every image."""
    classes = answers.logits.shape[1]
    if not argument.strip().isdigit() or int(argument) >= classes:
        raise Refusal(f"target class:{argument}: the network's classes are 0 to {classes - 1}")
    return _plain(torch.full_like(answers.labels, int(argument)), answers.logits)


@target("none")
def none(answers: Answers) -> Explained:
    """No class: what class-free methods are computed for."""
    nobody = torch.full_like(answers.labels, -1)
    directions = answers.logits.new_zeros(len(nobody), 0, answers.logits.shape[1])
    return Explained(directions, nobody, nobody.new_empty(len(nobody), 0), by_class=False)
