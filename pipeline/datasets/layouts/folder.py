"""Images in class folders without splits, as Kvasir lies (CLASS/NAME.jpg), or any folder of images.

Classes are the sorted first folders, numbers as numbers, or as classes.txt in the root lists them; images of a folder without any carry no label.
All of it is the split train.
"""

import logging
from collections.abc import Iterator

from pipeline.datasets.layouts.class_order import ordered
from pipeline.datasets.layouts.csv import recognises as in_table
from pipeline.datasets.layouts.layout import Dataset, Layout, Record
from pipeline.datasets.layouts.splits import recognises as in_splits
from pipeline.datasets.layouts.tables import tell_unread
from pipeline.datasets.layouts.tree import Tree, brief
from pipeline.refusal import Refusal

log = logging.getLogger(__name__)


def recognises(tree: Tree) -> bool:
    depths = {"/" in path for path in tree.images}
    return len(depths) == 1 and not in_table(tree) and not in_splits(tree)


def dataset(tree: Tree, level: None) -> Dataset:
    classes = ordered({path.split("/")[0] for path in tree.images if "/" in path}, tree)
    position = {name: label for label, name in enumerate(classes)}
    loose = next((path for path in tree.images if "/" not in path), None)
    if not tree.images:
        raise Refusal(f"{tree.root} has no images")
    if classes and loose:
        raise Refusal(f"{loose} lies in no class folder and others do, {classes[0]}/ for one; move it into one")
    tell_unread(tree)
    if len(classes) == 1:
        log.warning("%s: all images lie in %s, so that is their only class", tree.root, brief(classes[0]))

    def records() -> Iterator[Record]:
        for path in tree.images:
            yield Record(path, position[path.split("/")[0]] if classes else None, "train", path)

    return Dataset(classes, records)


LAYOUT = Layout(recognises, dataset, aliases=("kvasir",), last=True)
