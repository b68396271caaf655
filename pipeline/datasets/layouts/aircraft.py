"""FGVC-Aircraft (Maji et al. 2013): variants, families or manufacturers of aircraft, with a box each.

In data/ or the root: images/NUMBER.jpg; families.txt, variants.txt and manufacturers.txt (names in class order);
images_LEVEL_train.txt, _val.txt and _test.txt (`NUMBER NAME`; images_LEVEL_trainval.txt stands in where both halves are missing); images_box.txt
(`NUMBER xmin ymin xmax ymax`, pixels counted from 1, the last one inside). The lowest 20 rows of an image are a banner, which stays.
"""

from collections.abc import Iterator

from pipeline.datasets.layouts.layout import Box, Dataset, Layout, Record
from pipeline.datasets.layouts.tree import Tree, brief, numbers
from pipeline.refusal import Refusal

NAMES = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
PARTS = {"train": "train", "val": "val", "test": "test", "trainval": "train"}


def recognises(tree: Tree) -> bool:
    return any(_tables(tree, level) for level in NAMES)


def dataset(tree: Tree, level: str) -> Dataset:
    tables = _tables(tree, level)
    if not tables:
        raise Refusal(f"--level {level}: {tree.root} has no images_{level}_train.txt, _val.txt or _test.txt")
    folder = _folder(tree)
    classes = tuple(line.strip() for _, line in tree.lines(tree.needed(f"{folder}{NAMES[level]}")))
    position = {name: label for label, name in enumerate(classes)}
    boxes = _boxes(tree, f"{folder}images_box.txt") if f"{folder}images_box.txt" in tree else {}

    def records() -> Iterator[Record]:
        left = set(boxes)
        for path, split in tables.items():
            for where, (number, name) in tree.rows(path, 2):
                if name not in position:
                    raise Refusal(f"{where}: {brief(name)} is not in {NAMES[level]}")
                left.discard(number)
                box = (boxes[number][1],) if number in boxes else ()
                yield Record(f"{folder}images/{number}.jpg", position[name], split, where, boxes=box, name=f"{number}.jpg")
        if left and len(set(tables.values())) == 3:
            stray = min(left)
            raise Refusal(f"{boxes[stray][0]}: there is no image {brief(stray)} in {', '.join(tables)}")

    return Dataset(classes, records)


def _boxes(tree: Tree, path: str) -> dict[str, tuple[str, Box]]:
    boxes = {}
    for where, (number, *sides) in tree.rows(path, 5):
        x0, y0, x1, y1 = numbers(sides, where)
        if x0 > x1 or y0 > y1:
            raise Refusal(f"{where}: {brief(' '.join(sides))} is not xmin ymin xmax ymax of a box")
        boxes[number] = (where, (x0 - 1, y0 - 1, x1, y1))
    return boxes


def _folder(tree: Tree) -> str:
    return "data/" if any(path.startswith("data/images_") for path in tree.files) else ""


def _tables(tree: Tree, level: str) -> dict[str, str]:
    """Label file -> split."""
    there = {part: path for part in PARTS if (path := f"{_folder(tree)}images_{level}_{part}.txt") in tree}
    if "train" in there or "val" in there:
        there.pop("trainval", None)
    return {path: PARTS[part] for part, path in there.items()}


LAYOUT = Layout(recognises, dataset, levels=tuple(NAMES), aliases=("fgvc_aircraft",))
