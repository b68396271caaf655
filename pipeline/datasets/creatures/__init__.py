"""Twelve creatures that the project draws itself: a fine-grained dataset whose discriminating pixels are known exactly."""

from pipeline.datasets.creatures.classes import (
    ATTRIBUTES,
    CLASSES,
    CUB_PARTS,
    PART_IDS,
    PARTS,
    class_attributes,
    differing_parts,
    discriminating,
    pairs,
    part_of,
    write_tables,
)
from pipeline.datasets.creatures.draw import Drawing, draw
from pipeline.datasets.creatures.network import ARGS, IMAGE_SIZE, MEAN, NAME, STD, sidecar, weights_path
from pipeline.datasets.creatures.shards import SEEDS, write

__all__ = [
    "ARGS",
    "ATTRIBUTES",
    "CLASSES",
    "CUB_PARTS",
    "IMAGE_SIZE",
    "MEAN",
    "NAME",
    "PARTS",
    "PART_IDS",
    "SEEDS",
    "STD",
    "Drawing",
    "class_attributes",
    "differing_parts",
    "discriminating",
    "draw",
    "pairs",
    "part_of",
    "sidecar",
    "weights_path",
    "write",
    "write_tables",
]
