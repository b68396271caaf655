"""Fish-Vista (Mehrab et al. 2025): museum images of fish; species or families, and for some of them traits drawn pixel by pixel.

classification_train.csv, _val.csv and _test.csv, and segmentation_train.csv, _val.csv and _test.csv, with the columns filename,
standardized_species and family; images by file name anywhere below the root (Images/ as published); segmentation_masks/images/NAME.png, whose pixels
are numbers of traits, and segmentation_masks/seg_id_trait_map.json, which names them (0 is the background). Any trait counts as the fish.

Levels: species and family of the classification tables, and segmentation, the species of the segmentation tables. Classes are names in sorted order.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from pipeline.datasets.layouts.layout import SPLITS, Dataset, FileAnnotations, Layout, Record
from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal
from pipeline.storage import read_json

TABLES = {"species": "classification", "family": "classification", "segmentation": "segmentation"}
COLUMNS = {"species": "standardized_species", "family": "family", "segmentation": "standardized_species"}
MASKS, TRAITS = "segmentation_masks/images", "segmentation_masks/seg_id_trait_map.json"


def recognises(tree: Tree) -> bool:
    tables = [path for table in ("classification", "segmentation") for path in _tables(tree, table)]
    return bool(tables) and "standardized_species" in next((line for _, line in tree.lines(tables[0])), "")


def dataset(tree: Tree, level: str) -> Dataset:
    tables, column = _tables(tree, TABLES[level]), COLUMNS[level]
    if not tables:
        raise Refusal(f"--level {level}: {tree.root} has no {TABLES[level]}_train.csv, _val.csv or _test.csv")
    rows = [(split, where, row) for path, split in tables.items() for where, row in tree.table(path, "filename", column)]
    unnamed = next((where for _, where, row in rows if not row[column]), None)
    if unnamed:
        raise Refusal(f"{unnamed}: {column} is empty")
    classes = tuple(sorted({row[column] for _, _, row in rows}))
    position = {name: label for label, name in enumerate(classes)}
    paths = {path.rpartition("/")[2]: path for path in tree.images if not path.startswith("segmentation_masks/")}
    traits = _traits(tree) if TRAITS in tree else ()

    def records() -> Iterator[Record]:
        for split, where, row in rows:
            name = row["filename"]
            mask = f"{MASKS}/{name.rpartition('.')[0]}.png"
            files = (("traits", mask),) if traits and mask in tree else ()
            image = paths.get(name, f"Images/{name}")
            yield Record(image, position[row[column]], split, where, part_names=traits if files else (), files=files, name=name)

    return Dataset(classes, records)


def read_files(record: Record, contents: Sequence[bytes]) -> FileAnnotations:
    (_, path), *_ = record.files
    with Image.open(io.BytesIO(contents[0])) as image:
        if image.mode not in ("L", "P", "1"):
            raise Refusal(f"{path} is an image of mode {image.mode}, not of trait numbers")
        index = np.array(image.convert("L") if image.mode == "1" else image, dtype=np.uint8)
    if index.max(initial=0) > len(record.part_names):
        raise Refusal(f"{path} holds the trait {index.max()}; {TRAITS} names {len(record.part_names)}")
    return FileAnnotations(mask=np.where(index, np.uint8(255), np.uint8(0)), parts=index)


def _tables(tree: Tree, table: str) -> dict[str, str]:
    return {path: split for split in SPLITS if (path := f"{table}_{split}.csv") in tree}


def _traits(tree: Tree) -> tuple[str, ...]:
    """The traits' names from number 1 on."""
    form = '{"1": name, "2": name, ...}'
    named = read_json(tree.url(TRAITS), "trait names", form, lambda content: {int(number): str(name) for number, name in content.items()})
    named.pop(0, None)
    if sorted(named) != list(range(1, len(named) + 1)):
        raise Refusal(f"{TRAITS} leaves out one of the numbers 1 ... {max(named, default=1)}")
    return tuple(named[number] for number in sorted(named))


LAYOUT = Layout(recognises, dataset, levels=tuple(TABLES), read_files=read_files, aliases=("fish_vista",))
