"""Draws a creature: an image, the exact mask of its visible parts, its box and its part points.

The parts in which two classes agree look the same, to the last bit, in both drawings of one scene: every pixel shows one part
(or the ground) and takes its colour from that part alone. So the pixels that tell two classes apart are known exactly.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.datasets.creatures.anatomy import (
    CORE,
    HEAD,
    LIMBS,
    NECK,
    PLUMAGE,
    POINTS,
    SIZE,
    TORSO,
    Pose,
    contour,
    coverage,
    outlines,
    strike,
)
from pipeline.datasets.creatures.classes import CLASSES, PART_IDS, design
from pipeline.datasets.creatures.ground import foreground, ground, shadow
from pipeline.datasets.creatures.plumage import jitter, paint

TOUCH = 1 / 18  # a pixel belongs to a part once one of its fine pixels does


@dataclass(frozen=True)
class Drawing:
    """One picture of a creature and the truth about it."""

    image: np.ndarray  # [SIZE SIZE 3] uint8
    mask: np.ndarray  # [SIZE SIZE] uint8: 0 ground, else the id of the part that the pixel shows
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 around the visible creature, as fractions of the image
    points: dict[str, tuple[float, float]]  # CUB part name -> x, y as fractions, the visible ones


def draw(seed: int, label: int, index: int) -> Drawing:
    """Draw class `label` (0..11) in scene `index`; pose, light and ground follow from (seed, index), only looks from the class.

    Raises:
        IndexError: the label is beyond the last class.
        ValueError: a negative seed or index.
    """
    values = design(CLASSES[label])
    pose = strike(_rng(seed, index, "pose"))
    scenery, near = ground(_rng(seed, index, "ground"))
    scenery = scenery * (1 - shadow(pose.centre, pose.scale))[..., None]
    image, mask = _creature(scenery, values, pose, seed, index)
    for cover, colour in foreground(near, _rng(seed, index, "front")):
        image += cover[..., None] * (np.array(colour, dtype=np.float32) - image)
        mask = np.where(cover == 1, 0, mask)  # a pixel that is partly covered still shows its part
    image = np.clip(image * _light(_rng(seed, index, "light")), 0, 255)
    return Drawing((image + 0.5).astype(np.uint8), mask.astype(np.uint8), _box(mask), _points(mask, pose))


def _rng(seed: int, index: int, purpose: str) -> np.random.Generator:
    # one stream for each purpose, so that what one part draws moves no other
    return np.random.default_rng([seed, index, *purpose.encode()])


def _creature(scenery: np.ndarray, values: dict[str, str], pose: Pose, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The scenery with a creature on it, and its part ids.

    The body's outline is the same for all classes. Over it a limb's edge is hard, beside it the edge is blended with the
    scenery and never with another part: thus no part's colour leaks into a pixel of another.
    """
    silhouette = [pose.place("head", HEAD), pose.place("belly", TORSO), pose.place("belly", NECK)]
    body, light = coverage(silhouette), _relief(pose)
    rim = contour(body)[..., None]
    plumage = jitter(PLUMAGE[_rng(seed, index, "plumage").integers(len(PLUMAGE))], _rng(seed, index, "plumage jitter"))
    image, mask = scenery.copy(), np.zeros((SIZE, SIZE), np.uint8)
    for part in CORE + LIMBS:
        cover = coverage([pose.place(part, shape) for shape in outlines(part, values[part])])
        inside = body >= TOUCH
        visible = cover >= np.where(inside, 0.5, TOUCH)
        if part == "belly":
            visible = inside
        elif part in CORE:
            visible &= inside
        weight = np.where(inside, np.maximum(cover, body) if part in LIMBS else body, cover)[..., None]
        colours = paint(part, values[part], pose, plumage, _rng(seed, index, part)) * light
        colours = colours * rim if part in CORE else colours
        image = np.where(visible[..., None], scenery + weight * (colours - scenery), image)
        mask[visible] = PART_IDS[part]
    return image, mask


def _relief(pose: Pose) -> np.ndarray:
    """Light from above: [SIZE SIZE 1], brighter over the creature's back than under its belly."""
    height = (np.arange(SIZE, dtype=np.float32) + 0.5 - pose.centre.imag) / pose.scale
    return np.clip(1.03 - 0.12 * height, 0.85, 1.15)[:, None, None]


def _light(rng: np.random.Generator) -> np.ndarray:
    """The light of the day: a gain per colour channel."""
    warmth = rng.uniform(-0.07, 0.07)
    return (rng.uniform(0.8, 1.05) * np.array([1 + warmth, 1, 1 - warmth])).astype(np.float32)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]) / SIZE, float(rows[0]) / SIZE, float(columns[-1] + 1) / SIZE, float(rows[-1] + 1) / SIZE


def _points(mask: np.ndarray, pose: Pose) -> dict[str, tuple[float, float]]:
    """Part points by CUB's names; an eye, a wing and the legs belong to the side that is turned to us."""
    near, far = ("left", "right") if pose.flip else ("right", "left")
    sided = {"eye": f"{near} eye", "wing": f"{near} wing", "leg front": f"{far} leg", "leg rear": f"{near} leg"}
    points = {}
    for name, (part, point) in POINTS.items():
        spot = complex(pose.place(part, np.array([point]))[0])
        column, row = int(spot.real), int(spot.imag)
        if 0 <= column < SIZE and 0 <= row < SIZE and mask[row, column] == PART_IDS[part]:
            points[sided.get(name, name)] = (spot.real / SIZE, spot.imag / SIZE)
    return points
