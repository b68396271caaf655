"""Birds-525 (the 525 bird species published on Kaggle): train/, valid/ and test/ with a folder per species, and a table of them.

A CSV file in the root with the columns `class id` (or `class index`), `filepaths`, `labels` and `data set` (train, valid, test); class numbers may be
written as 0.0. The paths are below the root.
"""

from collections.abc import Iterator

from pipeline.datasets.layouts.layout import Dataset, Layout, Record
from pipeline.datasets.layouts.tree import Tree, brief, numbers
from pipeline.refusal import Refusal
from pipeline.sources.splits import split_of

NUMBERS = ("class id", "class index")
COLUMNS = ("filepaths", "labels", "data set")


def recognises(tree: Tree) -> bool:
    return _csv(tree) is not None


def dataset(tree: Tree, level: None) -> Dataset:
    path = _csv(tree)
    if path is None:
        raise Refusal(f"{tree.root} has no CSV file with the columns {', '.join((NUMBERS[0], *COLUMNS))}")
    names: dict[int, str] = {}
    for where, row in tree.table(path, *COLUMNS):
        name, label = row["labels"], _label(where, row)
        if names.setdefault(label, name) != name:
            raise Refusal(f"{where}: class {label} is {brief(name)} here and {brief(names[label])} before")
    if sorted(names) != list(range(len(names))):
        lacking = next(label for label in range(len(names)) if label not in names)
        raise Refusal(f"{path}: no line has class {lacking}, and there are {len(names)} classes")
    return Dataset(tuple(names[label] for label in range(len(names))), lambda: _records(tree, path))


def _records(tree: Tree, path: str) -> Iterator[Record]:
    for where, row in tree.table(path, *COLUMNS):
        split = split_of(row["data set"])
        if split is None:
            raise Refusal(f"{where}: the data set {brief(row['data set'])} is none of train, valid, test")
        yield Record(row["filepaths"].replace("\\", "/"), _label(where, row), split, where)


def _label(where: str, row: dict[str, str]) -> int:
    text = next((row[name] for name in NUMBERS if name in row), "")
    (label,) = numbers([text], where)
    if label < 0 or label != int(label):
        raise Refusal(f"{where}: {brief(text)} is not the number of a class")
    return int(label)


def _csv(tree: Tree) -> str | None:
    for path in tree.files:
        if "/" not in path and path.lower().endswith(".csv"):
            names = next((line.lower() for _, line in tree.lines(path)), "")
            if all(column in names for column in COLUMNS) and any(column in names for column in NUMBERS):
                return path
    return None


LAYOUT = Layout(recognises, dataset, aliases=("birds_525",))
