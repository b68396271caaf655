"""Boxes as fractions of the image: their pixels, their overlaps, and the boxes of the connected parts of a map.

N boxes x0 y0 x1 y1, H W pixels
"""

from collections.abc import Iterable

import numpy as np

STORED = 0.54e-6  # of a side: half of the sixth decimal, the last one that a packed fraction has, and the rounding of a product
TOUCHING = np.ones((3, 3))  # pixels that share a corner belong together, as contours have it


def clipped(boxes: Iterable) -> np.ndarray:
    """Boxes [N 4] cut off at the image's border; those without area in it are dropped."""
    inner = np.clip(np.array(list(boxes), dtype=np.float64).reshape(-1, 4), 0, 1)
    return inner[(inner[:, 0] < inner[:, 2]) & (inner[:, 1] < inner[:, 3])]


def whole_pixels(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Corners [... 2] or boxes [... 4] as fractions -> in pixels, cut off to whole ones, as released evaluations have them.

    One that lies on a whole pixel is that pixel, although the fraction as it is stored may lie a little lower.
    """
    height, width = size
    return np.floor((corners + STORED) * np.resize([width, height], corners.shape[-1]))


def pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels [H W] whose centre lies in one of the boxes."""
    height, width = size
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    across = (boxes[:, :1] <= x) & (x < boxes[:, 2:3])
    down = (boxes[:, 1:2] <= y) & (y < boxes[:, 3:])
    return np.any(down[:, :, None] & across[:, None, :], axis=0)


def overlaps(some: np.ndarray, others: np.ndarray, edge: float = 0) -> np.ndarray:
    """Intersection over union [M N] of boxes [M 4] and [N 4]; `edge` 1 where the far corners are pixels that belong to the box."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    both = np.clip(high - low + edge, 0, None).prod(2)
    areas = [(box[:, 2:] - box[:, :2] + edge).prod(1) for box in (some, others)]
    return both / (areas[0][:, None] + areas[1] - both)


def parts(mask: np.ndarray) -> np.ndarray:
    """Tight boxes in pixels [N 4], far edge outside, of the connected parts of a mask [H W]."""
    return _outline(mask)[0]


def contour_boxes(mask: np.ndarray, largest: bool = False) -> np.ndarray:
    """Boxes in pixels [N 4] of the outlines of a mask's parts, and of the rims of its holes: the pixels of the mask all around each.

    `largest` keeps the one contour of the largest area, between the centres of its pixels, and the first of equals as OpenCV's tree of
    contours has them, which is what MaxBoxAcc goes by.
    """
    if not largest:
        return np.concatenate(_outline(mask))
    import cv2

    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return _boxes_of([max(lines, key=cv2.contourArea)])


def largest(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest connected part of a mask [H W] that is not empty, and its box as fractions [4]; the first one read of equals."""
    from scipy.ndimage import label

    numbers, _ = label(mask, TOUCHING)
    part = numbers == np.bincount(numbers.ravel())[1:].argmax() + 1
    return part, parts(part)[0] / [*mask.shape[::-1], *mask.shape[::-1]]


def around(S: np.ndarray) -> np.ndarray:
    """The box, as fractions [4], of the largest connected part of a map [H W] above its mean (Opti-CAM appendix B); none of a flat one."""
    return largest(S.mean() < S)[1]


def hit(mask: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether the centroid of the largest connected part of a mask [H W] lies in one of the boxes [N 4]."""
    blob, _ = largest(mask)
    y, x = ((index.mean() + 0.5) / side for index, side in zip(np.nonzero(blob), mask.shape, strict=True))
    return bool(((boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])).any())


def share(boxes: np.ndarray) -> float:
    """The sum of the boxes' [N 4] areas, as a share of the image."""
    return float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum())


def _outline(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of the parts, and those of the rims of holes."""
    import cv2

    outlines, nesting = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    boxes = _boxes_of(outlines)
    outer = np.array([parent < 0 for *_, parent in nesting[0]] if len(outlines) else [], dtype=bool)  # a rim's parent is its part
    return boxes[outer], boxes[~outer]


def _boxes_of(contours: Iterable[np.ndarray]) -> np.ndarray:
    """The boxes in pixels [N 4], far edge outside, of contours as OpenCV has them."""
    import cv2

    boxes = np.array([cv2.boundingRect(contour) for contour in contours], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
