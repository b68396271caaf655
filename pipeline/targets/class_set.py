"""Several classes together (CALM section 4.1.3).

B images, C classes
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F

from pipeline.refusal import Refusal, choose
from pipeline.targets.registry import Directions, Predictions, target


@target("class_set", takes_argument="<name>")
def class_set(
    answers: Predictions, argument: str, *, sets: tuple[str, ...] = (), aggregation: Literal["sum", "sum_unit"] = "sum"
) -> Directions:
    """Several classes together: the sum of their one-hots (CALM section 4.1.3, subset attribution). The map's class stays the image's own.

    The argument is the name of one of `sets` (each written `name=1 2 3`), class numbers joined by +, `all` for every class, or `own` for
    the smallest set that holds the image's class; a class that no set holds stands alone. aggregation=sum_unit explains every member by
    itself, and adds the maps up after each was brought to [0, 1]: what the paper sets against it as CAM + Y (section 5.4).
    """
    count, class_id = answers.logits.shape[1], answers.main
    class_sets = {name: [int(c) for c in members.split()] for name, _, members in (text.rpartition("=") for text in sets)}
    if argument == "own":
        smallest = {c: min((m for m in class_sets.values() if c in m), key=len, default=[c]) for c in class_id.tolist()}
        members = [smallest[c] for c in class_id.tolist()]
    else:
        members = [_members(argument, class_sets, count)] * len(class_id)
    outsider = next((c for classes in members for c in classes if not 0 <= c < count), None)
    if outsider is not None:
        raise Refusal(f"target class_set:{argument}: class {outsider} is none of the network's, 0 to {count - 1}")
    no_references = class_id.new_empty(len(class_id), 0)
    if aggregation == "sum_unit":  # a smaller set is filled up with directions of zeros, whose flat maps add nothing
        directions = answers.logits.new_zeros(len(members), max(map(len, members)), count)
        for row, classes in zip(directions, members, strict=True):
            row[range(len(classes)), classes] = 1
        return Directions(directions, class_id, no_references, join="sum_unit")
    directions = torch.stack([F.one_hot(torch.tensor(classes), count).sum(0) for classes in members]).to(answers.logits)
    return Directions(directions[:, None], class_id, no_references)


def _members(argument: str, class_sets: Mapping[str, list[int]], count: int) -> list[int]:
    """The classes of a set by its name, or as they are written."""
    if argument == "all" and argument not in class_sets:
        return list(range(count))
    if argument not in class_sets and all(part.strip().isdigit() for part in argument.split("+")):
        return sorted({int(part) for part in argument.split("+")})
    if not class_sets:
        raise Refusal(f"target class_set:{argument}: the sets are not known; give --class-sets FILE, class numbers as 3+7, all or own")
    return class_sets[choose(argument, [*class_sets, "all", "own"], "class set")]
