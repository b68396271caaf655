"""Class folders inside split folders: SPLIT/CLASS/... with images, as Chest X-ray (train, val, test of NORMAL and PNEUMONIA) and many others lie.

Split folders are train, val (valid, validation) and test. Classes are the sorted names of all splits' folders; everything below a class folder is its own.
"""

from collections.abc import Iterator

from pipeline.datasets.layouts.layout import SPLITS, Dataset, Layout, Record
from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal

FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def recognises(tree: Tree) -> bool:
    return any(map(_split, tree.images))


def dataset(tree: Tree, level: None) -> Dataset:
    inside = [path for path in tree.images if _split(path)]
    loose = next((path for path in tree.images if path.count("/") < 2 or not _split(path)), None)
    if loose:
        raise Refusal(
            f"{loose} does not lie in SPLIT/CLASS/, as in train/cat/; --layout folder takes every folder of {tree.root} for a class"
        )
    if not inside:
        raise Refusal(f"{tree.root} has no images in {', '.join(FOLDERS)} folders")
    classes = tuple(sorted({path.split("/")[1] for path in inside}))
    position = {name: label for label, name in enumerate(classes)}

    def records() -> Iterator[Record]:
        for split in SPLITS:
            for path in inside:
                if _split(path) == split:
                    yield Record(path, position[path.split("/")[1]], split, path)

    return Dataset(classes, records)


def _split(path: str) -> str | None:
    return FOLDERS.get(path.split("/")[0].lower()) if "/" in path else None


LAYOUT = Layout(recognises, dataset, aliases=("chest_xray",), last=True)
