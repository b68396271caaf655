"""The label against each class it makes a pair with (CALM section 5.1)."""

from collections.abc import Sequence

import torch

from pipeline.classes.pairs import Pair, partners
from pipeline.classes.pairs import read as read_pairs
from pipeline.refusal import Refusal
from pipeline.targets.registry import Directions, Predictions, one_hot_directions, target


@target("pairs", takes_argument="<file>", reads=read_pairs, compared=True)
def pairs(answers: Predictions, argument: Sequence[Pair]) -> dict[str, Directions]:
    """The label against each class it makes a pair with: for one after the other, the other's own map and that of y_A - y_B.

    `#own` is the label's own map, `#other_1` the map of the first partner, `#finer_1` the difference. An image has as many as its class
    has partners; for the others, and where its class is in no pair, class_id is -1.
    """
    classes, partners_of = answers.logits.shape[1], partners(argument)
    if max(partners_of) >= classes:
        raise Refusal(f"a pair has class {max(partners_of)}; the network's classes are 0 to {classes - 1}")
    table = answers.labels.new_full((classes + 1, max(map(len, partners_of.values()))), -1)  # the last row is that of no label
    for label, others in partners_of.items():
        table[label, : len(others)] = table.new_tensor([other for other, _ in others])
    rivals = table[answers.labels]
    directions = {"#own": one_hot_directions(torch.where(rivals[:, 0] >= 0, answers.labels, -1), answers.logits)}
    for k, rival in enumerate(rivals.unbind(1), 1):
        directions[f"#other_{k}"] = other = one_hot_directions(rival, answers.logits)
        own = one_hot_directions(torch.where(rival >= 0, answers.labels, -1), answers.logits)
        directions[f"#finer_{k}"] = Directions(own.directions - other.directions, own.class_id, rival[:, None], 1.0)
    return directions
