"""The part of an image that a network sees: a patch embedding drops the rows and columns that no whole patch fits in.

H W pixels
"""

from collections.abc import Callable

import torch
from torch import Tensor

Part = tuple[int, int, int, int]  # top, left, bottom, right, in pixels; far edges outside


@torch.no_grad()
def seen_part(logits: Callable[[Tensor], Tensor], images: Tensor, covered: tuple[float, float] | None = None) -> Part | None:
    """The part of images [2, 3, H, W] that the logits depend on, as far as the grid covers it; None where the logits depend on all of it.

    `covered` are the rows and columns that the grid's cells lie over, where they are known: with several strides that do not divide, lines
    are read that no cell lies over.

    A pixel that is no number leaves no number behind it, whatever the weights, so the logits stay finite where it is not read. What cannot
    be told so, as a network that takes such pixels out itself, counts as seen: lines that are not seen also change nothing when they
    change. Lines are looked for at the far ends, and where those are dropped at the near ends too.
    """
    height, width = images.shape[2:]
    if not (_reads(logits, images, 2, height - 1, height) and _reads(logits, images, 3, width - 1, width)):
        top, bottom = _ends(logits, images, 2)
        left, right = _ends(logits, images, 3)
        if (top, left, bottom, right) != (0, 0, height, width):
            rows, columns = covered or (height, width)
            return top, left, min(bottom, top + round(rows)), min(right, left + round(columns))
    return None


def _ends(logits: Callable[[Tensor], Tensor], images: Tensor, axis: int) -> tuple[int, int]:
    """The first line that the logits depend on, and the one after the last."""
    side = images.shape[axis]
    first, last = 0, side
    if not _reads(logits, images, axis, side - 1, side):
        low, high = 0, side - 1  # the lines from `high` on are not read, those from `low` on are
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _reads(logits, images, axis, middle, side) else (low, middle)
        last = high
    if not _reads(logits, images, axis, 0, 1):
        low, high = 1, side  # the lines before `low` are not read, those before `high` are
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _reads(logits, images, axis, 0, middle) else (middle, high)
        first = low
    unread = [(start, stop) for start, stop in ((0, first), (last, side)) if start < stop]
    changed = images.clone()
    for start, stop in unread:
        changed.narrow(axis, start, stop - start).copy_(-3 * images.flip(axis).narrow(axis, start, stop - start) + 1)
    return (first, last) if torch.equal(logits(changed), logits(images)) else (0, side)


def _reads(logits: Callable[[Tensor], Tensor], images: Tensor, axis: int, start: int, stop: int) -> bool:
    """Whether the logits depend on any of these lines."""
    blank = images[:1].clone()
    blank.narrow(axis, start, stop - start).fill_(torch.nan)
    try:
        return not bool(logits(blank).isfinite().all())
    except Exception:  # a network of one's own that looks for such pixels has read them
        return True
