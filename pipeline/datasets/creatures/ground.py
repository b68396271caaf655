"""The scenery around a creature and in front of it: textured ground, shed feathers and other look-alikes, blades of grass."""

import numpy as np
from PIL import Image, ImageDraw

from pipeline.datasets.creatures.anatomy import (
    BILLS,
    COLOURS,
    CREST,
    FINE,
    LEGS,
    PLUMAGE,
    SIZE,
    TAILS,
    WING,
    coverage,
    ellipse,
    plume,
    polygon,
)
from pipeline.datasets.creatures.plumage import Colour, jitter, mix, shade

# far and near colour of the ground
GROUNDS = [
    ((176, 204, 168), (104, 142, 84)),
    ((226, 208, 170), (176, 142, 98)),
    ((166, 178, 204), (96, 104, 134)),
    ((176, 212, 218), (84, 140, 150)),
    ((216, 178, 152), (150, 96, 78)),
    ((204, 186, 206), (122, 100, 132)),
]


def ground(rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """A cluttered ground without a creature, [SIZE SIZE 3] in 0..255, and its near colour."""
    far, near = GROUNDS[rng.integers(len(GROUNDS))]
    far, near = jitter(far, rng), jitter(near, rng)
    canvas = Image.fromarray(_terrain(far, near, rng)).resize((SIZE * FINE, SIZE * FINE), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    _litter(pen, near, rng)
    for _ in range(rng.integers(7, 13)):
        _distractor(pen, near, rng)
    for _ in range(rng.integers(10, 22)):
        _blade(pen, near, rng)
    return np.asarray(canvas.reduce(FINE), dtype=np.float32), near


def _terrain(far: Colour, near: Colour, rng: np.random.Generator) -> np.ndarray:
    horizon = rng.uniform(0.15, 0.6)
    depth = 1 / (1 + np.exp((horizon - np.linspace(0, 1, SIZE)) * rng.uniform(6, 20)))[:, None, None]
    base = np.array(far) * (1 - depth) + np.array(near) * depth
    rough = np.sum([_noise(rng, cells) * weight for cells, weight in ((4, 22), (11, 16), (30, 10))], axis=0)
    return np.clip(base + rough[..., None], 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _litter(pen: ImageDraw.ImageDraw, near: Colour, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(20, 45)):
        centre = complex(*rng.uniform(0, SIZE, 2))
        pebble = ellipse(centre, rng.uniform(0.8, 4), rng.uniform(0.6, 2.5), rng.uniform(0, 3.1))
        pen.polygon(polygon(pebble), fill=shade(near, rng.uniform(0.6, 1.35), rng.uniform(-0.1, 0.1)))


def _blade(pen: ImageDraw.ImageDraw, near: Colour, rng: np.random.Generator) -> None:
    root = complex(rng.uniform(0, SIZE), rng.uniform(0.3, 1.1) * SIZE)
    tip = root + complex(rng.normal(0, 6), -rng.uniform(8, 30))
    pen.polygon(polygon(plume(root, tip, rng.uniform(1.5, 4), 0.3)), fill=shade(near, rng.uniform(0.65, 1.3), rng.uniform(-0.1, 0.1)))


def _distractor(pen: ImageDraw.ImageDraw, near: Colour, rng: np.random.Generator) -> None:
    shapes = _lookalike(rng)
    middle = np.concatenate(shapes).mean()
    spin = rng.uniform(9, 22) * np.exp(1j * rng.uniform(0, 2 * np.pi))
    centre = complex(*rng.uniform(0, SIZE, 2))
    colours = [COLOURS[name] for name in ("red", "blue", "yellow", "orange", "white", "horn", "coral", "cream", "ink")]
    colours += [shade(PLUMAGE[rng.integers(len(PLUMAGE))], rng.uniform(0.6, 1.2))] * 3
    # towards the ground's own colour by a random share: vivid as a creature's part only now and then
    colour = mix(jitter(colours[rng.integers(len(colours))], rng), near, rng.uniform(0.0, 0.6))
    for shape in shapes:
        corners = polygon(centre + spin * (shape - middle))
        pen.polygon(corners, fill=colour)
        pen.line(corners + corners[:1], fill=shade(colour, 0.6), width=FINE - 1)
    if rng.random() < 0.4:
        _marks(pen, centre, spin, colour, rng)


def _lookalike(rng: np.random.Generator) -> list[np.ndarray]:
    tails, bills = list(TAILS.values()), list(BILLS.values())
    stones = [[ellipse(0, 0.5, 0.4)], [ellipse(0, 0.25, 0.25)]]
    choices = [[tails[rng.integers(3)]], [bills[rng.integers(3)]], CREST, [WING], LEGS[:5], *stones]
    return choices[rng.integers(len(choices))]


def _marks(pen: ImageDraw.ImageDraw, centre: complex, spin: complex, colour: Colour, rng: np.random.Generator) -> None:
    mark = mix(colour, COLOURS["cream"] if rng.random() < 0.6 else COLOURS["ink"], 0.7)
    striped = rng.random() < 0.5
    for along in (-0.35, 0.0, 0.35):
        shape = ellipse(along, 0.06, 0.2) if striped else ellipse(along, 0.08, 0.08)
        pen.polygon(polygon(centre + spin * shape), fill=mark)


def shadow(centre: complex, scale: float) -> np.ndarray:
    """The darkness of the ground under a creature: [SIZE SIZE] in 0..1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    far = ((x - centre.real) / (1.3 * scale)) ** 2 + ((y - centre.imag - 1.25 * scale) / (0.3 * scale)) ** 2
    return (0.4 * np.exp(-far)).astype(np.float32)


def foreground(near: Colour, rng: np.random.Generator) -> list[tuple[np.ndarray, Colour]]:
    """Stalks that stand before the creature: (coverage [SIZE SIZE], colour) each; none on most images."""
    stalks = []
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.5, 0.25, 0.15, 0.1]))):
        root = complex(rng.uniform(0.1, 0.9) * SIZE, SIZE + 2)
        tip = root + complex(rng.normal(0, 16), -rng.uniform(0.35, 0.85) * SIZE)
        colour = shade(near, rng.uniform(0.6, 1.3), rng.uniform(-0.12, 0.12))
        stalks.append((coverage([plume(root, tip, rng.uniform(3, 7), 0.4)]), colour))
    return stalks
