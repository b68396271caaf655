"""Class folders inside split folders: SPLIT/CLASS/... with images, as Chest X-ray (train, val, test of NORMAL and PNEUMONIA) and many others lie.

Split folders are train, val (valid, validation) and test, or have these or other usual names of splits in their own: training_set and test_set. A
folder that lies in a copy of itself, train/train/CLASS/..., is one. Classes are the sorted names of all splits' folders, numbers as numbers, or as
classes.txt in the root lists them; everything below a class folder is its own.
"""

from collections.abc import Iterator

from pipeline.datasets.layouts.class_order import ordered
from pipeline.datasets.layouts.layout import SPLITS, Dataset, Layout, Record
from pipeline.datasets.layouts.tables import tell_unread
from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal
from pipeline.sources.splits import innermost, split_folders, split_of

PLAIN = ("train", "val", "valid", "validation", "test")  # one of these beside folders that are no splits is a split all the same


def recognises(tree: Tree) -> bool:
    return bool(_splits(tree))


def dataset(tree: Tree, level: None) -> Dataset:
    splits = _splits(tree)
    prefixes = {folder: innermost(folder, [path for path in tree.images if path.startswith(f"{folder}/")]) + "/" for folder in splits}
    inside = {path: path.removeprefix(prefixes.get(path.split("/")[0], path)) for path in tree.images}
    loose = next((path for path, rest in inside.items() if "/" not in rest), None)
    if loose and splits:
        raise Refusal(
            f"{loose} does not lie in SPLIT/CLASS/, as in train/cat/; --layout folder takes every folder of {tree.root} for a class"
        )
    if not splits:
        raise Refusal(f"{tree.root} has no images in {', '.join(PLAIN)} folders")
    tell_unread(tree)
    classes = ordered({rest.split("/")[0] for rest in inside.values()}, tree)
    position = {name: label for label, name in enumerate(classes)}

    def records() -> Iterator[Record]:
        for split in SPLITS:
            for path, rest in inside.items():
                if splits[path.split("/")[0]] == split:
                    yield Record(path, position[rest.split("/")[0]], split, path)

    return Dataset(classes, records)


def _splits(tree: Tree) -> dict[str, str]:
    """Split by folder."""
    folders = {path.split("/")[0] for path in tree.images if "/" in path}
    plain = {folder: split_of(folder) for folder in folders if folder.lower() in PLAIN}
    return split_folders(folders) or {folder: split for folder, split in plain.items() if split}


LAYOUT = Layout(recognises, dataset, aliases=("chest_xray",), last=True)
