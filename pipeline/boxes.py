"""Boxes as fractions of the image: their pixels, how much they overlap, and the boxes of the connected parts of a map.

N boxes x0 y0 x1 y1, H W pixels
"""

from collections.abc import Iterable

import numpy as np

TOUCHING = np.ones((3, 3))  # pixels that share a corner belong together, as contours have it


def clipped(boxes: Iterable) -> np.ndarray:
    """Boxes [N 4] cut off at the image's border; those without area in it are dropped."""
    cut = np.clip(np.array(list(boxes), dtype=np.float64).reshape(-1, 4), 0, 1)
    return cut[(cut[:, 0] < cut[:, 2]) & (cut[:, 1] < cut[:, 3])]


def pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels [H W] whose centre lies in one of the boxes."""
    height, width = size
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    across = (boxes[:, :1] <= x) & (x < boxes[:, 2:3])
    down = (boxes[:, 1:2] <= y) & (y < boxes[:, 3:])
    return (down[:, :, None] & across[:, None, :]).any(0)


def overlaps(some: np.ndarray, others: np.ndarray, edge: float = 0) -> np.ndarray:
    """Intersection over union [M N] of boxes [M 4] and [N 4]; `edge` 1 where the far corners are pixels that belong to the box."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    both = np.clip(high - low + edge, 0, None).prod(2)
    areas = [(box[:, 2:] - box[:, :2] + edge).prod(1) for box in (some, others)]
    return both / (areas[0][:, None] + areas[1] - both)


def parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected parts of a mask [H W]: a number for each pixel, 0 outside, and their tight boxes in pixels [N 4], far edge outside."""
    from scipy.ndimage import find_objects, label

    numbers, _ = label(mask, TOUCHING)
    found = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(numbers)]
    return numbers, np.array(found, dtype=np.float64).reshape(-1, 4)


def largest(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest connected part of a mask [H W] that is not empty, and its box as fractions [4]; the first one read of equals."""
    numbers, found = parts(mask)
    biggest = int(np.bincount(numbers.ravel())[1:].argmax())
    return numbers == biggest + 1, found[biggest] / [*mask.shape[::-1], *mask.shape[::-1]]


def holes(mask: np.ndarray) -> np.ndarray:
    """Boxes [N 4] in pixels of the rims of a mask's holes: the pixels of the mask all around each."""
    from scipy.ndimage import find_objects, label

    numbers, _ = label(np.pad(~mask, 1, constant_values=True))
    # number 1 is the outside; in padded coordinates a hole's own box is its rim's box without the far edge
    found = [(x.start - 2, y.start - 2, x.stop, y.stop) for y, x in find_objects(numbers)[1:]]
    return np.array(found, dtype=np.float64).reshape(-1, 4)
