"""The CSV files in a dataset's root that name images and their labels, under the usual names of columns."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal
from pipeline.sources.splits import split_folders, split_of

log = logging.getLogger(__name__)
ENDINGS = (".csv", ".tsv")
IMAGES: tuple[str, ...] = ("path", "file_path", "filepath", "filepaths", "image_path", "img_path", "image_file", "filename", "file_name")
IMAGES += ("image_name", "img_name", "image", "img", "file", "image_id", "id")
LABELS: tuple[str, ...] = ("label", "labels", "class", "class_name", "class_id", "class_index", "label_name", "label_id", "category")
LABELS += ("category_name", "category_id", "target", "species", "breed")
SPLIT = "split"
SPLITS = ("set", "data_set", "subset", "partition", "dataset")


@dataclass(frozen=True)
class Table:
    """A table of images: its columns, and the split of all of its rows where its name is one beside others."""

    path: str
    image: str
    labels: tuple[str, ...]  # columns that may be the label
    split: str | None = None  # the column
    whole_split: str | None = None

    @property
    def official(self) -> bool:
        return (self.image, self.labels) == ("path", ("label",))

    @property
    def label(self) -> str:
        """The column of labels.

        Raises:
            Refusal: it may be one of several.
        """
        if len(self.labels) > 1:
            raise Refusal(f"{self.path}: the columns {' and '.join(self.labels)} may both be the label; call the one that is meant `label`")
        return self.labels[0]

    def rows(self, tree: Tree) -> Iterator[tuple[str, dict[str, str]]]:
        return tree.table(self.path, self.image, *self.labels)


def tables(tree: Tree) -> list[Table]:
    """Every CSV file of the root with columns of images and of labels."""
    found = []
    for path in tree.files:
        if _is_table(path):
            try:
                names = tree.header(path, "path", "label")[1]
            except Refusal:
                if path.lower().endswith(".tsv"):
                    continue  # of a CSV file it is told: it may well hold the labels
                raise
            images, labels = _columns(names, IMAGES), _columns(names, LABELS)
            if images and labels:
                split = next((name for name in names if name == SPLIT), None)
                found.append(Table(path, images[0], labels[:1] if "label" in labels[:1] else labels, split))
    return found


def _columns(names: Iterable[str], usual: tuple[str, ...]) -> tuple[str, ...]:
    """The columns with usual names, the most usual first."""
    spelled = {re.sub(r"[\s_-]+", "_", name): name for name in names}
    return tuple(spelled[name] for name in usual if name in spelled)


def readable(tree: Tree, asked: bool = False) -> list[Table]:
    """The tables that are the dataset's: the only one with the columns path and label; else those whose images are there, unless folders
    tell the images apart as well and the table is not `asked` for."""
    found = tables(tree)
    official = [table for table in found if table.official]
    if len(official) == 1:
        return official
    fit = [table for table in official or found if _is_of(tree, table, asked)]
    return _by_split(fit)


def _is_of(tree: Tree, table: Table, asked: bool) -> bool:
    """Whether most images of the table are there, in no folders that tell them apart."""
    try:
        values = {row[table.image] for _, row in table.rows(tree)}
    except Refusal as problem:
        if asked:
            raise
        log.warning("%s; it is taken for no table of images", problem)
        return False
    paths = {*locate(tree, values).values()}
    return 2 * len(paths) > len(values) and (asked or len(_folders(paths)) < 2)


def _folders(paths: Collection[str]) -> set[str]:
    """The folders that would be classes, of these images; those of splits would not."""
    folders = [path.split("/")[:-1] for path in paths]
    splits = split_folders({parts[0] for parts in folders if parts})
    return {"/".join(parts[1:2] if parts[0] in splits else parts[:1]) for parts in folders if parts} | {
        "" for parts in folders if not parts
    }


def _by_split(fit: list[Table]) -> list[Table]:
    """The tables with the split that each file's name is, where all of several are named so."""
    splits = split_folders([table.path.rpartition(".")[0] for table in fit]) if len(fit) > 1 else {}
    return [Table(t.path, t.image, t.labels, t.split, splits.get(t.path.rpartition(".")[0])) for t in fit]


def split_column(tree: Tree, table: Table) -> str | None:
    """The column of splits: `split`, or another usual one if nothing but splits is in it."""
    if table.split:
        return table.split
    for name in _columns(tree.header(table.path, table.image, *table.labels)[1], SPLITS):
        values = {row[name] for _, row in table.rows(tree)}
        if any(values) and all(not value or split_of(value) for value in values):
            return name
    return None


def tell_unread(tree: Tree, read: Collection[Table] = ()) -> None:
    """Tell of the root's CSV files that are not read: one may hold the labels, under other names of columns."""
    others = sorted({path for path in tree.files if _is_table(path)} - {table.path for table in read})
    if others:
        log.warning(
            "%s: %s is not read; --layout csv reads the one that has the columns path and label", tree.root, " and ".join(others[:3])
        )


def _is_table(path: str) -> bool:
    return "/" not in path and path.lower().endswith(ENDINGS)


def locate(tree: Tree, values: Collection[str]) -> dict[str, str]:
    """The paths of the images that a table names: as they are, or without an ending that but one image has; where none is there as
    it is named, also without the folder that but one image lies in."""
    found = {value: value for value in values if value in tree}
    lost = {value: value.replace("\\", "/").removeprefix("./") for value in values if value not in found}
    if not lost:
        return found
    anywhere = not found
    paths_of: dict[str, list[str]] = {}
    for path in tree.images:
        name = path.rpartition("/")[2]
        for last in {name, name.rpartition(".")[0]}:
            paths_of.setdefault(last, []).append(path)
    for value, plain in lost.items():
        paths = [path for path in paths_of.get(plain.rpartition("/")[2], ()) if _is_named(path, plain, anywhere)]
        if plain in tree or len(paths) == 1:
            found[value] = plain if plain in tree else paths[0]
    return found


def _is_named(path: str, value: str, anywhere: bool) -> bool:
    names = (path, path.rpartition(".")[0])
    return value in names or (anywhere and any(name.endswith(f"/{value}") for name in names))
