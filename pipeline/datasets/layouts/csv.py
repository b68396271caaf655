"""A CSV file in the root, with the columns path and label, and if you like split (train, val, test; train where it is empty), x0, y0, x1, y1.

Paths are below the root. Labels are numbers from 0, named by a classes.txt beside the table where there is one, or else names, whose
sorted order is the classes'. A box is given in fractions of the image as it is shown; a row without one leaves all four empty, and an image with
several boxes has a row for each.
"""

from dataclasses import replace

from pipeline.datasets.layouts.layout import SHOWN, SPLITS, Box, Dataset, Layout, Record
from pipeline.datasets.layouts.tree import Tree, brief, numbers, whole
from pipeline.refusal import Refusal

COLUMNS = ("path", "label")
SIDES = ("x0", "y0", "x1", "y1")
ALIASES = {"": "train", "valid": "val", "validation": "val"}


def recognises(tree: Tree) -> bool:
    return _csv(tree) is not None


def dataset(tree: Tree, level: None) -> Dataset:
    path = _csv(tree)
    if path is None:
        raise Refusal(f"{tree.root} has not one CSV file with the columns {' and '.join(COLUMNS)}")
    labels = {row["label"] for _, row in tree.table(path, *COLUMNS)}
    numbered = bool(labels) and all(label.isdecimal() for label in labels)
    classes = _read_numbered(tree, max(map(int, labels))) if numbered else tuple(sorted(labels))
    position = {str(label): label for label in range(len(classes))} if numbered else {name: label for label, name in enumerate(classes)}
    records: dict[str, Record] = {}
    for where, row in tree.table(path, *COLUMNS):
        label = row["label"] if not numbered else str(whole(row["label"], where))
        if label not in position or not label:
            raise Refusal(f"{where}: the label {brief(row['label'])} is none of the {len(classes)} classes")
        record = Record(row["path"], position[label], _split(row, where), where, boxes=_box(row, where), frame=SHOWN)
        earlier = records.get(record.image)
        if earlier and (earlier.label, earlier.split) != (record.label, record.split):
            raise Refusal(f"{where}: {brief(record.image)} has another label or split than in {earlier.where}")
        records[record.image] = replace(earlier, boxes=earlier.boxes + record.boxes) if earlier else record
    return Dataset(classes, records.values)


def _read_numbered(tree: Tree, largest: int) -> tuple[str, ...]:
    if largest >= 10**6:
        raise Refusal(f"the largest label is {largest}; number the classes from 0 without gaps")
    if "classes.txt" not in tree:
        return tuple(str(label) for label in range(largest + 1))
    return tuple(line.strip() for _, line in tree.lines("classes.txt"))


def _split(row: dict[str, str], where: str) -> str:
    text = row.get("split", "").lower()
    split = ALIASES.get(text, text)
    if split not in SPLITS:
        raise Refusal(f"{where}: the split {brief(text)} is none of {', '.join(SPLITS)}")
    return split


def _box(row: dict[str, str], where: str) -> tuple[Box, ...]:
    texts = [row.get(side, "") for side in SIDES]
    if not any(texts):
        return ()
    x0, y0, x1, y1 = numbers(texts, where)
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise Refusal(f"{where}: {brief(' '.join(texts))} is not x0 y0 x1 y1 of a box in fractions of the image, 0 to 1")
    return ((x0, y0, x1, y1),)


def _csv(tree: Tree) -> str | None:
    """The only CSV file of the root that has the columns."""
    paths = []
    for path in tree.files:
        if "/" not in path and path.lower().endswith(".csv"):
            names = next((line.lower() for _, line in tree.lines(path)), "").split(",")
            if all(column in map(str.strip, names) for column in COLUMNS):
                paths.append(path)
    return paths[0] if len(paths) == 1 else None


LAYOUT = Layout(recognises, dataset, last=True)
