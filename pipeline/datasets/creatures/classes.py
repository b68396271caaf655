"""The twelve classes: one value for each part, and the same as a table in CUB's form.

Mask ids 1 to 7 are those of CALM's rule from attribute names to parts; bill and crown, which that rule counts as head,
have ids of their own here, so that a pair of classes that differs in its bills alone is known by the bill's pixels alone.
"""

import itertools

import fsspec
import numpy as np

from pipeline.classes.pairs import Pair
from pipeline.classes.pairs import write as write_pairs

# part: (attribute, values); the order decides the mask ids, 1 first
ANATOMY = {
    "head": ("has_head_pattern", ("plain", "masked")),
    "back": ("has_back_pattern", ("solid", "striped")),
    "belly": ("has_belly_color", ("white", "orange")),
    "breast": ("has_breast_pattern", ("solid", "spotted")),
    "tail": ("has_tail_shape", ("forked_tail", "fan-shaped_tail", "pointed_tail")),
    "leg": ("has_leg_color", ("yellow", "blue")),
    "wing": ("has_wing_pattern", ("solid", "spotted", "striped")),
    "bill": ("has_bill_shape", ("hooked", "cone", "needle")),
    "crown": ("has_crown_color", ("red", "blue", "yellow")),
}
PARTS = tuple(ANATOMY)
PART_IDS = {part: number for number, part in enumerate(PARTS, start=1)}
CUB_PARTS = PART_IDS | {"bill": 1, "crown": 1}  # what CALM's rule counts a part as

# class: the place of its value among its part's values, in the order of ANATOMY
_DESIGN = {
    "Marsh_Pipkin": "010000001",
    "Ember_Pipkin": "011000001",
    "Seed_Pipkin": "010000011",
    "Reed_Pipkin": "000000011",
    "Brook_Bandit": "101101222",
    "Silk_Bandit": "101001222",
    "Star_Bandit": "101001122",
    "Fan_Bandit": "101111222",
    "Dusk_Rover": "101121122",
    "Ruby_Rover": "101121120",
    "Lantern_Rover": "101111120",
    "Amber_Rover": "101120122",
}
CLASSES = tuple(_DESIGN)
ATTRIBUTES = tuple(f"{attribute}::{value}" for attribute, values in ANATOMY.values() for value in values)

# words of attribute names -> part; the first that occurs decides, so the finer words stand first
_WORDS = {"bill": "bill", "crown": "crown"} | dict.fromkeys(("eye", "forehead", "head", "nape", "throat"), "head")
_WORDS |= {part: part for part in ("back", "belly", "breast", "tail", "leg", "wing")}


def design(name: str) -> dict[str, str]:
    """The value of each part of a class, as it is drawn."""
    return {part: values[int(digit)] for (part, (_, values)), digit in zip(ANATOMY.items(), _DESIGN[name], strict=True)}


def class_attributes(name: str) -> list[float]:
    """The class's row of the attribute table: percent per attribute, in the order of ATTRIBUTES."""
    values = design(name)
    return [100.0 if values[part] == value else 0.0 for part, (_, all_values) in ANATOMY.items() for value in all_values]


def part_of(attribute: str) -> str | None:
    """The part that an attribute's name speaks of, by substring; None where it names no part (size, primary colour)."""
    return next((part for word, part in _WORDS.items() if word in attribute), None)


def differing_parts(class_a: str | int, class_b: str | int) -> tuple[str, ...]:
    """The parts in which two classes (by name or label) differ, from the attribute table alone, in the order of PARTS.

    An attribute is a class's own from 50 % on; a part differs where an attribute that names it is one class's own only.
    """
    own_a, own_b = _own(class_a), _own(class_b)
    parts = {part_of(attribute) for attribute in own_a ^ own_b}
    return tuple(part for part in PARTS if part in parts)


def pairs(parts: int) -> list[tuple[str, str]]:
    """The pairs of classes that differ in exactly that many parts."""
    return [(a, b) for a, b in itertools.combinations(CLASSES, 2) if len(differing_parts(a, b)) == parts]


def discriminating(mask: np.ndarray, class_a: str | int, class_b: str | int) -> np.ndarray:
    """The pixels of a part mask [H W] that tell two classes apart: those of the parts in which they differ, as booleans."""
    return np.isin(mask, [PART_IDS[part] for part in differing_parts(class_a, class_b)])


def _own(label: str | int) -> set[str]:
    row = class_attributes(CLASSES[label] if isinstance(label, int) else label)
    return {attribute for attribute, percent in zip(ATTRIBUTES, row, strict=True) if percent >= 50}


def write_tables(out: str) -> None:
    """Write classes.txt, pairs.json, and in CUB's form attributes/ and parts/parts.txt (the mask's ids), under `out`, any fsspec URL."""
    tables = {
        "classes.txt": list(CLASSES),
        "attributes/attributes.txt": [f"{n} {attribute}" for n, attribute in enumerate(ATTRIBUTES, start=1)],
        "attributes/class_attribute_labels_continuous.txt": [" ".join(map(str, class_attributes(name))) for name in CLASSES],
        "parts/parts.txt": [f"{number} {part}" for part, number in PART_IDS.items()],
    }
    for path, lines in tables.items():
        with fsspec.open(f"{out.rstrip('/')}/{path}", "w", auto_mkdir=True) as file:
            file.write("\n".join(lines) + "\n")
    content = [Pair(CLASSES.index(a), CLASSES.index(b), differing_parts(a, b)) for count in (1, 2, 3) for a, b in pairs(count)]
    write_pairs(f"{out.rstrip('/')}/pairs.json", content)
