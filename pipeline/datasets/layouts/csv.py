"""A CSV file in the root, with the columns path and label, and if you like split (train, val, test; train where it is empty), x0, y0, x1, y1.

Commas, semicolons, tabs or bars separate the columns. Their other usual names are known too (filename, image_id ...; class, category ...; set, subset
...), and files that are named as splits (train.csv, test.csv) are one table; where folders already tell the images of such tables apart, --layout csv
says that the tables are meant.

Paths are below the root, or below the folder that all images lie in, and may lack their ending. Labels are numbers from 0, named by a classes.txt beside
the table where there is one, or else names, whose sorted order is the classes' unless classes.txt lists them. A box is given in fractions of the
image as it is shown; a row without one leaves all four empty, and an image with several boxes has a row for each.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.datasets.layouts.class_order import LISTED, ordered
from pipeline.datasets.layouts.layout import SHOWN, SPLITS, Box, Dataset, Layout, Record
from pipeline.datasets.layouts.tables import ENDINGS, Table, locate, readable, split_column, tell_unread
from pipeline.datasets.layouts.tree import Tree, brief, numbers
from pipeline.refusal import Refusal
from pipeline.sources.splits import split_of

log = logging.getLogger(__name__)
NUMBER = r"[+-]?\d{1,18}(\.\d*)?([eE][+-]?\d{1,2})?"
MISSING = {"nan", "na", "n/a", "<na>", "null"}  # as programs write a number that is not there
SIDES = ("x0", "y0", "x1", "y1")


def recognises(tree: Tree) -> bool:
    return bool(readable(tree))


def dataset(tree: Tree, level: None) -> Dataset:
    tables = readable(tree) or readable(tree, asked=True)
    _refuse_unclear(tree, tables)
    tell_unread(tree, tables)
    classes, position = _classes(tree, {row[table.label]: where for table in tables for where, row in table.rows(tree)})
    records: dict[str, Record] = {}
    for where, row, label, image, split in _rows(tree, tables):
        if not label:
            raise Refusal(f"{where}: the label is empty; leave out rows without a class")
        if label not in position:
            raise Refusal(f"{where}: the label {brief(label)} is none of the {len(classes)} classes")
        record = Record(image, position[label], split, where, boxes=_box(row, where), frame=SHOWN)
        earlier = records.get(record.image)
        if earlier and (earlier.label, earlier.split) != (record.label, record.split):
            raise Refusal(f"{where}: {brief(record.image)} has another label or split than in {earlier.where}")
        records[record.image] = replace(earlier, boxes=earlier.boxes + record.boxes) if earlier else record
    return Dataset(classes, records.values)


def _refuse_unclear(tree: Tree, tables: Sequence[Table]) -> None:
    if not tables:
        files = [path for path in tree.files if "/" not in path and path.lower().endswith(ENDINGS)]
        has = f"; {files[0]} has {', '.join(tree.header(files[0])[1])}" if files else ""
        raise Refusal(f"{tree.root} has not one CSV file with the columns path and label{has}")
    if len(tables) > 1 and not all(table.whole_split for table in tables):
        names = " and ".join(table.path for table in tables)
        raise Refusal(
            f"{tree.root}: {names} each name images and labels; leave one there, join them with a column split, or read none with --layout folder"
        )


def _rows(tree: Tree, tables: Sequence[Table]) -> Iterator[tuple[str, dict[str, str], str, str, str]]:
    """`file:line`, the fields, the label, the image's path and the split of every row."""
    for table in tables:
        paths = locate(tree, [row[table.image] for _, row in table.rows(tree)])
        column = split_column(tree, table)
        for where, row in table.rows(tree):
            split = _split(row[column], where) if column and row[column] else table.whole_split or "train"
            yield where, row, row[table.label], paths.get(row[table.image], row[table.image]), split


def _split(text: str, where: str) -> str:
    split = split_of(text)
    if split is None:
        raise Refusal(f"{where}: the split {brief(text)} is none of {', '.join(SPLITS)}")
    return split


def _classes(tree: Tree, labels: dict[str, str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and the position of each label's; `labels` have the place of one row each."""
    texts = [label for label in labels if label]
    numbered = {text: number for text in texts if (number := _whole(text)) is not None}
    gap = next((text for text in texts if text.lower() in MISSING), None)
    if gap and len(numbered) == len({text for text in texts if text.lower() not in MISSING}) > 0:
        raise Refusal(f"{labels[gap]}: the label {gap} is no number, as all others are; leave out rows without a class")
    if len(numbered) < len(texts) or not texts:
        if texts and all(re.fullmatch(NUMBER, text) for text in texts):
            log.warning("labels that are not whole, as %s, are names of classes", next(text for text in texts if text not in numbered))
        names = ordered(texts, tree)
        return names, {name: label for label, name in enumerate(names)}
    least, largest = (choice(texts, key=numbered.__getitem__) for choice in (min, max))
    if numbered[least] < 0:
        raise Refusal(f"{labels[least]}: the label {least} is no number of a class: they begin with 0; leave out rows without a class")
    if numbered[largest] >= 10**6:
        raise Refusal(f"the largest label is {numbered[largest]}; number the classes from 0 without gaps")
    if LISTED not in tree:
        return tuple(str(label) for label in range(numbered[largest] + 1)), numbered
    listed = tuple(line.strip() for _, line in tree.lines(LISTED))
    return listed, {text: label for text, label in numbered.items() if label < len(listed)}


def _whole(text: str) -> int | None:
    """The number in 3, 3.0 or 3.000e+00; None where it is no whole number."""
    if not re.fullmatch(NUMBER, text):
        return None
    if "." not in text and "e" not in text.lower():
        return int(text)
    return int(float(text)) if float(text).is_integer() else None


def _box(row: dict[str, str], where: str) -> tuple[Box, ...]:
    texts = [row.get(side, "") for side in SIDES]
    if not any(texts):
        return ()
    x0, y0, x1, y1 = numbers(texts, where)
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise Refusal(f"{where}: {brief(' '.join(texts))} is not x0 y0 x1 y1 of a box in fractions of the image, 0 to 1")
    return ((x0, y0, x1, y1),)


LAYOUT = Layout(recognises, dataset, last=True)
