"""Attributes of classes, and which of them tell a class from its nearest rival (Finer-CAM supplement A.2).

C classes, A attributes
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.maps.render import sound, unit
from pipeline.storage import read_json

FORM = '{"attributes": [names], "values": [[a share of each] for each class]}, as python -m jobs.pack writes it where a dataset has any'


class Attributes(NamedTuple):
    """A file of attributes: their names [A], and their share of the images of each class [C A], in 0..1."""

    url: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def texts(self) -> list[str]:
        """The attributes as texts [A]."""
        return [phrase(name) for name in self.names]


class Apart(NamedTuple):
    """A class's rival, and the attributes in which the class exceeds it: texts and differences, largest first."""

    rival: int
    attributes: tuple[tuple[str, float], ...]


class Differing(NamedTuple):
    """The part of a file of attributes that concerns a network: how each of its classes [C] differs from its rival."""

    classes: tuple[Apart, ...]

    @property
    def texts(self) -> list[str]:
        """The texts of all classes, one after the other."""
        return [text for apart in self.classes for text, _ in apart.attributes]


def read(url: str) -> Attributes:
    """The attributes of a file, {"attributes": [A names], "values": [[A shares] for each class]}, as `jobs.pack` writes it.

    Raises:
        Refusal: there is no such file, or it is no file of attributes.
    """
    names, values = read_json(url, "attributes", FORM, _parse)
    return Attributes(url, tuple(names), tuple(map(tuple, values.tolist())))


def _parse(content: Any) -> tuple[list[str], np.ndarray]:
    """Names [A] and values [C A]."""
    names, values = content["attributes"], np.array(content["values"], dtype=np.float64)
    if not all(isinstance(name, str) for name in names) or values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError
    if not np.isfinite(values).all():
        raise ValueError
    return names, values


def phrase(name: str) -> str:
    """An attribute as a text: `has_wing_color::blue` is `blue wing color`."""
    part, _, value = name.removeprefix("has_").partition("::")
    return " ".join(re.sub(r"[^\w-]+|_", " ", f"{value} {part}").split())


def differing(attributes: Attributes, rivals: Sequence[int], top: int) -> Differing:
    """The attributes that tell each class c from its rival d [C]: the `top` attributes with the largest value_c - value_d above 0, the first of equals."""
    values, texts, differences = np.array(attributes.values), attributes.texts, []
    for value, rival in zip(values, rivals, strict=True):
        excess = value - values[rival]
        largest = [a for a in np.argsort(-excess, kind="stable")[:top] if excess[a] > 0]
        differences.append(Apart(rival, tuple((texts[a], float(excess[a])) for a in largest)))
    return Differing(tuple(differences))


def correlation(one: np.ndarray | Exception, other: np.ndarray | Exception) -> float | None:
    """Pearson's correlation of the cells of two maps [h w]; None where one is constant but for rounding, not finite or an error."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        return None
    if not all(sound(map) and unit(map).any() for map in (one, other)):
        return None
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
