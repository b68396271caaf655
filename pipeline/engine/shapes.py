"""The shape of what a method's function gives back: checked where it is born, for any numbers of that many axes can be drawn."""

from collections.abc import Iterable
from typing import Any

import torch

from pipeline.refusal import Refusal


def checked(value: Any, *shapes: Iterable[int], what: str = "maps") -> torch.Tensor:
    """`value`, where it is a tensor of real numbers of one of these `shapes`.

    Raises:
        Refusal: naming both shapes, or the type.
    """
    due = [list(shape) for shape in dict.fromkeys(map(tuple, shapes))]
    due_text = " or ".join(map(str, due))
    if not isinstance(value, torch.Tensor):
        raise Refusal(f"its function gives a {type(value).__name__}; {what} are a tensor {due_text}")
    if value.is_complex():
        raise Refusal(f"its function gives {str(value.dtype).removeprefix('torch.')} numbers; {what} are real numbers {due_text}")
    if list(value.shape) not in due:
        raise Refusal(f"its function gives {list(value.shape)}; {what} of these images are {due_text}")
    return value
