"""Pairs of classes that differ in few parts, and the pixels of an image that show these parts: the cues of CALM's section 5.1.

C classes, A attributes, H W pixels
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline import storage
from pipeline.maps.boxes import whole_pixels
from pipeline.refusal import Refusal
from pipeline.sources.images import ImageRow
from pipeline.tables import files

Ties = Literal["points", "parts"]  # the order by which a pixel as near to two points goes to one of them
OWN = 0.5  # an attribute is a class's own from here on
MOST_PARTS = 3
FORM = '{"pairs": [{"classes": [0, 1], "parts": ["head"]}, ...]}'
# E21: the words by which a name speaks of a part, "beak" being what CUB calls the bill's point. That "leg" is in `long-legged-like`,
# the shape of a body, is an accident of the published rule, and is kept.
WORDS = dict.fromkeys(("bill", "beak", "crown", "eye", "forehead", "head", "nape", "throat"), "head")
WORDS |= {part: part for part in ("back", "belly", "breast", "tail", "leg", "wing")}
AVERAGED = "head"  # E23: its many points become one; the two legs and the two wings stay two


class Pair(NamedTuple):
    """Two classes and the parts in which they differ; their number is the pair's group."""

    a: int
    b: int
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The pair's scope in the tables."""
        return f"{self.a}-{self.b}"


def part_of(name: str) -> str | None:
    """The part that the name of an attribute or of a point speaks of; None where it speaks of none (size, primary colour)."""
    return next((part for word, part in WORDS.items() if word in name), None)


def pairs_of_attributes(names: Sequence[str], values: np.ndarray) -> list[Pair]:
    """The pairs of classes that differ in one to three parts (E20-E22), those with fewer parts first.

    `values` [C A] in 0..1 says how often an attribute is seen in a class. Two classes differ in the part of every attribute that is
    the one's own and not the other's. CUB has 31, 64 and 96 pairs that differ in 1, 2 and 3 parts.
    """
    own = np.asarray(values, dtype=np.float64) >= OWN
    parts = list(dict.fromkeys(WORDS.values()))
    table = np.array([[part_of(name) == part for part in parts] for name in names], dtype=np.int64).reshape(len(names), len(parts))
    pairs = []
    for a, b in combinations(range(len(own)), 2):
        differs = (own[a] ^ own[b]) @ table > 0
        if 1 <= differs.sum() <= MOST_PARTS:
            pairs.append(Pair(a, b, tuple(part for part, differing in zip(parts, differs, strict=True) if differing)))
    return sorted(pairs, key=lambda pair: len(pair.parts))


def write(url: str, pairs: Iterable[Pair]) -> None:
    """Write the file that the target `pairs:<file>` reads."""
    content = {"pairs": [{"classes": [pair.a, pair.b], "parts": list(pair.parts)} for pair in pairs]}
    files.write_bytes(url, (json.dumps(content) + "\n").encode())


def read(url: str) -> tuple[Pair, ...]:
    """The pairs of a file, each with its lower class first.

    Raises:
        Refusal: there is no such file, or it is no file of pairs.
    """
    pairs = storage.read_json(url, "pairs", FORM, _parse)
    earlier = set()
    for pair in pairs:
        classes = pair[:2]
        if not all(type(number) is int and number >= 0 for number in classes) or pair.a == pair.b:
            raise Refusal(f"{url}: {list(classes)} are no two classes; it must hold {FORM}")
        if not pair.parts or not all(isinstance(part, str) for part in pair.parts):
            raise Refusal(f"{url}: the classes {pair.name} differ in {list(pair.parts)}, which are no names of parts; it must hold {FORM}")
        if classes in earlier:
            raise Refusal(f"{url}: the classes {pair.name} come more than once")
        earlier.add(classes)
    if not pairs:
        raise Refusal(f"{url} holds no pair; it must hold {FORM}")
    return pairs


def _parse(content: Any) -> tuple[Pair, ...]:
    pairs = []
    for pair in content["pairs"]:
        a, b = sorted(pair["classes"])
        pairs.append(Pair(a, b, tuple(pair["parts"])))
    return tuple(pairs)


def partners(pairs: Sequence[Pair]) -> dict[int, list[tuple[int, Pair]]]:
    """Class -> each class it makes a pair with, and that pair, in the order of the pairs."""
    partners_of: dict[int, list[tuple[int, Pair]]] = {}
    for pair in pairs:
        partners_of.setdefault(pair.a, []).append((pair.b, pair))
        partners_of.setdefault(pair.b, []).append((pair.a, pair))
    return partners_of


class Parts(NamedTuple):
    """Which part each pixel shows: uint8 codes [H W], code i for names[i - 1] and 0 for none."""

    codes: np.ndarray
    names: tuple[str, ...]

    def showing(self, parts: Collection[str]) -> np.ndarray:
        """The pixels [H W] of any of some parts."""
        return np.array([False, *(name in parts for name in self.names)])[self.codes]


def parts_of(row: ImageRow, size: tuple[int, int], ties: Ties = "points") -> Parts | None:
    """The parts of an image: from its exact index image, cut off at its mask where it has one; else each pixel is the part of the
    point nearest to it, see `nearest`, cut off at the mask's silhouette (E23). None where the image has neither."""
    if row.parts is not None:
        codes, names, mask = row.parts, tuple(row.part_names), row.mask
    elif row.points:
        (codes, names), mask = nearest(row.points, size, ties), row.silhouette
    else:
        return None
    return Parts(codes if mask is None else np.where(mask > 0, codes, 0), names)


def nearest(points: Mapping[str, tuple[float, float]], size: tuple[int, int], ties: Ties = "points") -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes [H W] of the point that is nearest to each pixel, the first of equals, and the parts they mean.

    Points are fractions of the image; their pixels are cut off to whole numbers, as in CALM's code. The first is the head's, then they go
    as the data has them, or where `ties` is "parts" as that code has the parts: head, back, belly, breast, tail, legs, wings.
    """
    nearby = [(part_of(name) or name, point) for name, point in points.items()]
    averaged = [point for part, point in nearby if part == AVERAGED]
    nearby = [(part, point) for part, point in nearby if part != AVERAGED]
    if averaged:
        mean_x, mean_y = np.mean(averaged, axis=0)
        nearby.insert(0, (AVERAGED, (mean_x, mean_y)))
    if ties == "parts":
        order = list(dict.fromkeys(WORDS.values()))
        nearby.sort(key=lambda each: order.index(each[0]) if each[0] in order else len(order))
    y, x = np.mgrid[: size[0], : size[1]]
    places = whole_pixels(np.array([point for _, point in nearby]), size)
    distances = np.stack([(x - px) ** 2 + (y - py) ** 2 for px, py in places])
    return (distances.argmin(0) + 1).astype(np.uint8), tuple(part for part, _ in nearby)


def running(pairs: Sequence[Pair], counts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Counts by pair -> the sums over each pair and all before it, smaller groups first, as CALM's released evaluation adds them up."""
    sums: dict[str, Any] = {}
    totals = {}
    for pair in sorted(pairs, key=lambda pair: len(pair.parts)):
        if pair.name in counts:
            own = counts[pair.name]
            sums = {kind: sums.get(kind, 0) + own.get(kind, 0) for kind in {*sums, *own}}
            totals[pair.name] = sums
    return totals
