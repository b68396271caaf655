"""The attributes in which a class exceeds its nearest rival (Finer-CAM supplement A.2)."""

from collections.abc import Mapping

import torch

from pipeline.classes.attributes import Attributes, Differing, differing
from pipeline.classes.attributes import read as read_attributes
from pipeline.refusal import Refusal
from pipeline.targets.registry import Directions, Predictions, one_hot_directions, target
from pipeline.targets.rivals import ranked_by_weights


def _differing(argument: Attributes, settings: Mapping, weights: torch.Tensor | None) -> Differing:
    """The attributes that tell each class from the one that is nearest to it by the classifier's rows."""
    classes, rows = 0 if weights is None else len(weights), len(argument.values)
    if weights is None or classes != rows or classes < 2:
        raise Refusal(f"{argument.url} describes {rows} classes, the network has {classes}; both must have the same, two or more")
    top, most = settings["top"], len(argument.names)
    if not 1 <= top <= most:
        raise Refusal(f"attributes.top is {top}; {argument.url} has {most} attributes, so it must be 1 to {most}")
    rivals = ranked_by_weights(weights, torch.arange(classes, device=weights.device))[:, 0].tolist()
    return differing(argument, rivals, top)


@target(
    "attributes",
    takes_argument="<file>",
    reads=read_attributes,
    texts=lambda argument, settings: [settings["base"], *argument.texts],
    fit=_differing,
    compared=True,
)
def attributes(
    answers: Predictions, argument: Differing, *, base: str = "bird", gamma: float = 0.6, top: int = 3, templates: tuple[str, ...] = ()
) -> dict[str, Directions]:
    """Does the map that tells the label's class from its nearest rival show what tells them apart? (Finer-CAM supplement A.2)

    The rival d of a class c is the one whose classifier row is nearest to c's by cosine; its attributes are the `top` with the largest
    value_c - value_d above 0. `#label` is y_c and `#finer` y_c - gamma y_d; `#attribute_1` ... are y_attribute - gamma y_base of the
    attributes' texts, the largest difference first. For an image whose class has fewer, class_id is -1.
    """
    labels, classes = answers.labels, answers.logits.shape[1]
    own = one_hot_directions(labels, answers.logits)
    rivals = labels.new_tensor([*(apart.rival for apart in argument.classes), -1])[labels]  # the last is that of no label
    finer = own.directions - gamma * one_hot_directions(rivals, answers.logits).directions
    directions_of = {"#label": own, "#finer": Directions(finer, labels, rivals[:, None], gamma)}
    for k in range(top):
        class_id, directions = torch.full_like(labels, -1), answers.logits.new_zeros(len(labels), 1, classes + len(answers.phrases))
        for i, c in enumerate(labels.tolist()):
            for text, _ in argument.classes[c].attributes[k : k + 1] if c >= 0 else ():
                class_id[i] = c
                directions[i, 0, classes + answers.phrases.index((text, templates))] += 1
                directions[i, 0, classes + answers.phrases.index((base, templates))] -= gamma
        directions_of[f"#attribute_{k + 1}"] = Directions(directions, class_id, labels.new_empty(len(labels), 0), gamma)
    return directions_of
