"""The paint of each part: its colour field over the whole image, to be cut out by the part's outline."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from pipeline.datasets.creatures.anatomy import COLOURS, FINE, SIZE, Pose, ellipse, outlines, plume, polygon

Colour = tuple[int, int, int]


def shade(colour: Colour, factor: float, warmth: float = 0.0) -> Colour:
    """A colour made darker or lighter; `warmth` moves it from blue to red (both in shares of full light)."""
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    red, green, blue = (int(v) for v in np.clip(np.asarray(colour) * factor * tint, 0, 255))
    return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the first."""
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def jitter(colour: Colour, rng: np.random.Generator) -> Colour:
    """The same colour on another day: somewhat lighter or darker, warmer or colder."""
    return shade(colour, rng.uniform(0.88, 1.08), rng.uniform(-0.05, 0.05))


def paint(part: str, value: str, pose: Pose, plumage: Colour, rng: np.random.Generator) -> np.ndarray:
    """The colours of a part that has `value`: [SIZE SIZE 3] in 0..255, meant only where the part is."""
    fill, pattern = _fill(part, value, plumage)
    canvas = Image.new("RGB", (SIZE * FINE, SIZE * FINE), jitter(fill, rng))
    pen = ImageDraw.Draw(canvas)
    if pattern:
        pattern(pen, lambda points: polygon(pose.place(part, points)), plumage)
    _contour(pen, part, value, pose, shade(fill, 0.5))
    return np.asarray(canvas.reduce(FINE), dtype=np.float32)


def _contour(pen: ImageDraw.ImageDraw, part: str, value: str, pose: Pose, colour: Colour) -> None:
    if part == "belly":  # the body's own outline would cut through the neck
        return
    for shape in outlines(part, value):
        corners = polygon(pose.place(part, shape))
        pen.line(corners + corners[:1], fill=colour, width=FINE + 1 if part != "leg" else FINE - 1)


def _fill(part: str, value: str, plumage: Colour) -> tuple[Colour, Callable | None]:
    if part in ("crown", "belly", "leg"):
        return COLOURS[value], None
    if part == "bill":
        return COLOURS[HORNS[value]], _nostril
    if part == "tail":
        return shade(plumage, 0.66), _pale_tips if value == "fan-shaped_tail" else _quills
    light = {"head": 0.12, "back": -0.2, "breast": 0.3, "wing": -0.4}[part]
    fill = mix(plumage, COLOURS["white"] if light > 0 else COLOURS["ink"], abs(light))
    return fill, PATTERNS.get((part, value))


def _draw(pen: ImageDraw.ImageDraw, to_pixels: Callable, shapes: list[np.ndarray], colour: Colour) -> None:
    for shape in shapes:
        pen.polygon(to_pixels(shape), fill=colour)


def _nostril(pen, to_pixels, plumage) -> None:
    _draw(pen, to_pixels, [ellipse(1.46 - 0.78j, 0.05, 0.03)], COLOURS["ink"])


def _quills(pen, to_pixels, plumage) -> None:
    lines = [plume(-0.8 - 0.02j, -1.7 + 1j * end, 0.05) for end in (-0.4, -0.03, 0.34)]
    _draw(pen, to_pixels, lines, shade(plumage, 0.48))


def _pale_tips(pen, to_pixels, plumage) -> None:
    _draw(pen, to_pixels, [ellipse(-1.72 * np.exp(1j * turn), 0.2, 0.12, turn) for turn in (-0.26, -0.09, 0.08, 0.25)], COLOURS["cream"])


def _eye(pen, to_pixels) -> None:
    _draw(pen, to_pixels, [ellipse(1.04 - 0.8j, 0.2, 0.2)], COLOURS["white"])
    _draw(pen, to_pixels, [ellipse(1.08 - 0.79j, 0.125, 0.135)], COLOURS["ink"])
    _draw(pen, to_pixels, [ellipse(1.12 - 0.85j, 0.045, 0.045)], (255, 255, 255))


def _plain_head(pen, to_pixels, plumage) -> None:
    _eye(pen, to_pixels)


def _masked_head(pen, to_pixels, plumage) -> None:
    _draw(pen, to_pixels, [ellipse(0.95 - 0.8j, 0.62, 0.27, 0.05)], COLOURS["ink"])
    _eye(pen, to_pixels)


def _back_stripes(pen, to_pixels, plumage) -> None:
    bars = [np.array([x - 0.4j, x - 1.2j, x + 0.16 - 1.2j, x + 0.16 + 0j, x + 0j]) for x in (-0.95, -0.6, -0.25, 0.1, 0.45)]
    _draw(pen, to_pixels, bars, COLOURS["cream"])


def _breast_spots(pen, to_pixels, plumage) -> None:
    places = [0.62 + 0.45j, 0.82 + 0.3j, 0.55 + 0.18j, 0.9 + 0.02j, 0.66 - 0.1j, 0.73 + 0.12j, 0.44 + 0.36j, 0.9 - 0.22j, 0.48 - 0.04j]
    _draw(pen, to_pixels, [ellipse(spot, 0.075, 0.085) for spot in places], COLOURS["ink"])


def _wing_spots(pen, to_pixels, plumage) -> None:
    places = [0.2 - 0.16j, 0.12 + 0.1j, -0.12 - 0.05j, -0.3 + 0.16j, -0.42 - 0.08j, -0.66 + 0.08j, -0.14 - 0.26j, -0.92 + 0.07j]
    _draw(pen, to_pixels, [ellipse(spot, 0.085, 0.085) for spot in places], COLOURS["cream"])


def _wing_stripes(pen, to_pixels, plumage) -> None:
    bars = [np.array([x - 0.5j, x + 0.13 - 0.5j, x + 0.01 + 0.6j, x - 0.12 + 0.6j]) for x in (-0.85, -0.5, -0.15, 0.2)]
    _draw(pen, to_pixels, bars, COLOURS["cream"])


HORNS = {"hooked": "horn", "cone": "coral", "needle": "horn"}  # a bill's shape comes with its colour: the shape alone is too hard
PATTERNS = {
    ("head", "plain"): _plain_head,
    ("head", "masked"): _masked_head,
    ("back", "striped"): _back_stripes,
    ("breast", "spotted"): _breast_spots,
    ("wing", "spotted"): _wing_spots,
    ("wing", "striped"): _wing_stripes,
}
