"""The shapes, colours and joints of a creature's parts.

A point is a complex number x + iy in body lengths: origin in the middle of the body, facing right, y downwards.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128  # pixels of a drawn image, both ways
FINE = 3  # drawn this many times larger, then averaged: what smooths the outlines

COLOURS = {
    "red": (222, 48, 52),
    "blue": (46, 98, 228),
    "yellow": (250, 206, 40),
    "white": (246, 244, 236),
    "orange": (244, 132, 38),
    "cream": (252, 238, 204),
    "ink": (34, 28, 40),
    "horn": (72, 58, 60),
    "coral": (238, 128, 104),
}
PLUMAGE = [(124, 140, 156), (134, 146, 92), (148, 108, 148), (92, 148, 146), (150, 126, 108), (176, 124, 134), (104, 122, 178)]

BODY_TILT = -0.2


def ellipse(centre: complex, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
    """A closed outline of 40 points."""
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return centre + (rx * np.cos(t) + 1j * ry * np.sin(t)) * np.exp(1j * tilt)


def plume(root: complex, tip: complex, width: float, fullest: float = 0.5) -> np.ndarray:
    """A feather from `root` to `tip`, `width` at its `fullest` share of the way."""
    t = np.linspace(0, 1, 14)
    half = 0.5 * width * np.sin(np.pi * t ** (np.log(0.5) / np.log(fullest))) ** 0.7
    along = tip - root
    side = 1j * along / abs(along)
    return np.concatenate([root + t * along + half * side, (root + t * along - half * side)[::-1]])


def _fan(root: complex, length: float, spread: float) -> np.ndarray:
    t = np.linspace(-spread, spread, 41)
    scallop = 0.9 + 0.1 * np.abs(np.sin(np.linspace(0, 5 * np.pi, 41)))
    rim = root - length * scallop * np.exp(1j * t)
    return np.concatenate([[root + 0.14j], rim, [root - 0.14j]])


def _leg(hip: complex) -> list[np.ndarray]:
    knee, heel = hip + 0.02 + 0.3j, hip - 0.02 + 0.62j
    toes = [heel + 0.3 + 0.1j, heel + 0.08 + 0.15j, heel - 0.22 + 0.1j]
    return [_limb(hip, knee, 0.17), _limb(knee, heel, 0.14)] + [_limb(heel - 0.03j, toe, 0.12) for toe in toes]


def _limb(start: complex, end: complex, width: float) -> np.ndarray:
    side = 0.5j * width * (end - start) / abs(end - start)
    return np.array([start + side, end + side * 0.8, end - side * 0.8, start - side])


TAILS = {
    "forked_tail": np.array(
        [-0.7 - 0.24j, -1.1 - 0.38j, -2.1 - 0.74j, -1.72 - 0.3j, -1.2 - 0.02j, -1.72 + 0.26j, -2.1 + 0.64j, -1.1 + 0.32j, -0.7 + 0.16j]
    ),
    "fan-shaped_tail": _fan(-0.72 - 0.03j, 1.22, 0.68),
    "pointed_tail": plume(-0.6 - 0.03j, -2.15 - 0.05j, 0.36, 0.35),
}
BILLS = {
    "hooked": np.array([1.2 - 1.02j, 1.55 - 1.02j, 1.85 - 0.9j, 2.02 - 0.62j, 1.96 - 0.16j, 1.76 - 0.48j, 1.5 - 0.54j, 1.2 - 0.42j]),
    "cone": np.array([1.2 - 1.0j, 1.5 - 0.92j, 1.78 - 0.68j, 1.5 - 0.52j, 1.2 - 0.42j]),
    "needle": np.array([1.26 - 0.84j, 2.3 - 0.76j, 2.3 - 0.72j, 1.26 - 0.6j]),
}
HEAD = ellipse(0.9 - 0.72j, 0.52, 0.5)
TORSO = ellipse(0, 1.02, 0.74, BODY_TILT)
NECK = np.array([0.3 - 0.62j, 0.55 - 0.98j, 1.3 - 0.45j, 0.98 + 0.1j])
BREAST = ellipse(0.95 + 0.02j, 0.5, 0.95, 0.25)
BACK = np.array([-1.5 - 0.05j, -0.5 - 0.15j, 0.4 - 0.22j, 0.75 - 1.3j, -1.5 - 1.3j])
WING = plume(0.5 - 0.1j, -1.2 + 0.08j, 0.72, 0.4)
CREST = [
    plume(0.98 - 1.1j, 1.14 - 1.78j, 0.3, 0.6),
    plume(0.86 - 1.08j, 0.74 - 1.86j, 0.32, 0.6),
    plume(0.72 - 1.04j, 0.32 - 1.7j, 0.32, 0.6),
]
LEGS = _leg(-0.22 + 0.56j) + _leg(0.3 + 0.54j)

CORE = ("belly", "breast", "back", "head")  # the body whose outline no class changes; later ones lie over earlier ones
LIMBS = ("tail", "leg", "crown", "bill", "wing")  # drawn over the body in this order
SHAPES = {
    "belly": [TORSO],
    "breast": [BREAST],
    "back": [BACK],
    "head": [HEAD],
    "leg": LEGS,
    "crown": CREST,
    "wing": [WING],
}

# where CUB's part points lie: the part they belong to and the place on it
POINTS = {
    "back": ("back", -0.3 - 0.52j),
    "beak": ("bill", 1.4 - 0.72j),
    "belly": ("belly", -0.1 + 0.5j),
    "breast": ("breast", 0.72 + 0.12j),
    "crown": ("crown", 0.8 - 1.45j),
    "forehead": ("head", 1.2 - 0.98j),
    "eye": ("head", 1.04 - 0.8j),
    "leg front": ("leg", 0.31 + 0.8j),
    "leg rear": ("leg", -0.21 + 0.82j),
    "wing": ("wing", -0.15 - 0.02j),
    "nape": ("head", 0.5 - 0.76j),
    "tail": ("tail", -1.15 - 0.04j),
    "throat": ("head", 1.08 - 0.4j),
}
PIVOTS = {"tail": -0.8 - 0.05j, "wing": 0.4 - 0.1j, "head": 0.55 - 0.3j, "crown": 0.86 - 1.1j, "bill": 1.25 - 0.72j, "leg": 0.05 + 0.5j}
SWING = {"tail": 0.22, "wing": 0.14, "head": 0.16, "crown": 0.18, "bill": 0.1, "leg": 0.1}  # radians, largest


def outlines(part: str, value: str) -> list[np.ndarray]:
    """The closed outlines of a part that has `value`; only bills and tails differ in shape."""
    if part == "tail":
        return [TAILS[value]]
    return [BILLS[value]] if part == "bill" else SHAPES[part]


@dataclass(frozen=True)
class Pose:
    """The pose of a creature: body lengths to pixels of the finished image, and the angles of its joints (radians)."""

    centre: complex
    scale: float
    turn: float
    flip: bool
    angles: dict[str, float]

    def place(self, part: str, points: np.ndarray) -> np.ndarray:
        """Points of a part -> x + iy in pixels."""
        if part in ("crown", "bill"):
            points = self._swing(part, points)
            part = "head"
        points = self._swing(part, points)
        points = -np.conj(points) if self.flip else points
        return self.centre + self.scale * np.exp(1j * self.turn) * points

    def _swing(self, part: str, points: np.ndarray) -> np.ndarray:
        pivot = PIVOTS.get(part, 0)
        return pivot + (points - pivot) * np.exp(1j * self.angles.get(part, 0.0))


def strike(rng: np.random.Generator) -> Pose:
    """A random pose that fits the image."""
    scale = rng.uniform(22.5, 27.0)
    turn = rng.uniform(-0.24, 0.24)
    angles = {joint: rng.uniform(-most, most) for joint, most in SWING.items()}
    slack_x, slack_y = 0.5 * SIZE - 2.15 * scale, 0.5 * SIZE - 1.9 * scale
    centre = complex(rng.uniform(-1, 1) * max(slack_x, 3), rng.uniform(-1, 1) * max(slack_y, 3))
    return Pose(centre + 0.5 * SIZE * (1 + 1j) + 0.2j * scale, scale, turn, bool(rng.random() < 0.5), angles)


def polygon(points: np.ndarray) -> list[tuple[float, float]]:
    """Pixels of the finished image -> corners on the fine canvas, as ImageDraw takes them."""
    fine = points * FINE
    return list(zip(fine.real.tolist(), fine.imag.tolist(), strict=True))


def coverage(shapes: list[np.ndarray]) -> np.ndarray:
    """The share of each pixel that lies inside any of the outlines: [SIZE SIZE] in 0..1."""
    canvas = Image.new("L", (SIZE * FINE, SIZE * FINE))
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        pen.polygon(polygon(shape), fill=255)
    return np.asarray(canvas.reduce(FINE), dtype=np.float32) / 255


def contour(cover: np.ndarray) -> np.ndarray:
    """Light along the rim of a shape: a factor [SIZE SIZE], 1 inside and half on the outermost pixel."""
    inner = Image.fromarray((cover * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(3))
    return 1 - 0.5 * (cover - np.asarray(inner, dtype=np.float32) / 255)
