"""Stanford Cars (Krause et al. 2013): 196 models with a box each, in MATLAB files, in either form they are published in.

One file: cars_annos.mat (`annotations` with relative_im_path, bbox_x1, bbox_y1, bbox_x2, bbox_y2, class and test; `class_names`) and the images
it names, car_ims/000001.jpg. Or the devkit: cars_meta.mat (`class_names`), cars_train_annos.mat and cars_test_annos_withlabels.mat
(`annotations` with fname, the box and class), in devkit/, car_devkit/devkit/ or the root, and the images in cars_train/ and cars_test/, or in folders
of these names in those. Pixels and classes count from 1, and a box holds its last pixel.
"""

import io
import logging
from collections.abc import Iterator

import numpy as np

from pipeline.datasets.layouts.layout import Dataset, Layout, Record
from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal

log = logging.getLogger(__name__)
WHOLE, META = "cars_annos.mat", "cars_meta.mat"
SPLITS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
DEVKITS = ("", "devkit/", "car_devkit/devkit/")
SIDES = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def recognises(tree: Tree) -> bool:
    return bool(_path(tree, WHOLE) or (_path(tree, META) and any(_path(tree, name) for name in SPLITS.values())))


def dataset(tree: Tree, level: None) -> Dataset:
    whole = _path(tree, WHOLE)
    path = whole or _path(tree, META) or tree.needed(META, f"devkit/{META}")
    classes = tuple(str(name).strip() for name in np.atleast_1d(_read(tree, path, "class_names")["class_names"]))
    records = list(_whole(tree, whole, classes) if whole else _devkit(tree, classes))
    return Dataset(classes, lambda: records)


def _whole(tree: Tree, path: str, classes: tuple[str, ...]) -> Iterator[Record]:
    for where, row in _rows(tree, path, ("relative_im_path", "class", "test", *SIDES)):
        yield _record(where, row, str(row["relative_im_path"]), "test" if row["test"] else "train", classes)


def _devkit(tree: Tree, classes: tuple[str, ...]) -> Iterator[Record]:
    for split, name in SPLITS.items():
        path = _path(tree, name)
        if path is None:
            log.warning("%s: there is no %s, so there is no split %s", tree.root, name, split)
            continue
        folder = f"cars_{split}/"
        if any(image.startswith(folder * 2) for image in tree.images):
            folder *= 2  # as archives leave it that are unpacked into a folder of their own name
        for where, row in _rows(tree, path, ("fname", "class", *SIDES)):
            yield _record(where, row, f"{folder}{row['fname']}", split, classes)


def _record(where: str, row: dict, image: str, split: str, classes: tuple[str, ...]) -> Record:
    x0, y0, x1, y1 = (_number(where, row, side) for side in SIDES)
    label = _number(where, row, "class")
    if not 1 <= label <= len(classes):
        raise Refusal(f"{where}: class {label} is outside 1 ... {len(classes)}, which class_names names")
    return Record(image, label - 1, split, where, boxes=((x0 - 1.0, y0 - 1.0, float(x1), float(y1)),))


def _number(where: str, row: dict, field: str) -> int:
    try:
        return int(row[field])
    except (TypeError, ValueError) as error:
        raise Refusal(f"{where}: {field} is {str(row[field])[:40]!a}, not a whole number") from error


def _rows(tree: Tree, path: str, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """`file:row` and the fields of every annotation."""
    rows = np.atleast_1d(_read(tree, path, "annotations")["annotations"])
    missing = [field for field in fields if field not in (rows.dtype.names or ())]
    if missing:
        raise Refusal(f"{path}: annotations have no field {missing[0]}; they have {', '.join(rows.dtype.names or ()) or 'none'}")
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", {field: row[field] for field in fields}


def _read(tree: Tree, path: str, variable: str) -> dict:
    from scipy.io import loadmat

    try:
        variables = loadmat(io.BytesIO(tree.content(path)), squeeze_me=True, variable_names=[variable])
    except Exception as error:  # the file boundary: scipy meets damage with exceptions of many kinds
        raise Refusal(f"{path} is not a whole MATLAB file: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error
    if variable not in variables:
        raise Refusal(f"{path} is not a whole MATLAB file of the dataset: it has no variable {variable}")
    return variables


def _path(tree: Tree, name: str) -> str | None:
    return tree.first(*(f"{folder}{name}" for folder in DEVKITS))


LAYOUT = Layout(recognises, dataset, aliases=("stanford_cars",))
