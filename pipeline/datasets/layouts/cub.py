"""CUB-200-2011 (Wah et al. 2011): 200 bird species with boxes, points of 15 parts, attributes and masks.

images.txt, image_class_labels.txt, train_test_split.txt, classes.txt (numbers from 1); images/CLASS/NAME.jpg; and where they are there:
bounding_boxes.txt (x y width height in pixels), parts/parts.txt and parts/part_locs.txt, attributes.txt (inside attributes/, in
the root, or beside it), attributes/class_attribute_labels_continuous.txt (percent, a line per class),
attributes/image_attribute_labels.txt, and segmentations/CLASS/NAME.png, whose grey value is the share of five annotators who marked the
pixel. It is kept, so that a pixel is the bird's where any of them did, which is what CALM's evaluation goes by.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from pipeline.datasets.layouts.layout import Box, Dataset, FileAnnotations, Layout, Record
from pipeline.datasets.layouts.tree import Tree, brief, numbers, same_keys, whole
from pipeline.refusal import Refusal

IMAGES, LABELS, SPLIT, CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"
BOXES, PARTS, POINTS = "bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt"
CLASS_ATTRIBUTES = "attributes/class_attribute_labels_continuous.txt"
IMAGE_ATTRIBUTES = "attributes/image_attribute_labels.txt"


def recognises(tree: Tree) -> bool:
    return all(path in tree for path in (IMAGES, LABELS, SPLIT, CLASSES))


def dataset(tree: Tree, level: None) -> Dataset:
    classes = _read_numbered(tree, tree.needed(CLASSES))
    names = _by_image(tree, tree.needed(IMAGES))
    rows = {path: _of_images(tree, tree.needed(path), names) for path in (LABELS, SPLIT)}
    labels = {image: _position(where, text, classes, CLASSES) for image, (where, text) in rows[LABELS].items()}
    training = {image: _flag(where, text) for image, (where, text) in rows[SPLIT].items()}
    boxes = {image: _box(*row) for image, row in _of_images(tree, BOXES, names).items()} if BOXES in tree else {}
    points = _points(tree, names) if POINTS in tree else {}
    attributes = _attributes(tree)
    described = _image_attributes(tree, names, len(attributes)) if attributes and IMAGE_ATTRIBUTES in tree else {}

    def records() -> Iterator[Record]:
        for image, (where, name) in names.items():
            mask = f"segmentations/{name.rpartition('.')[0]}.png"
            yield Record(
                image=f"images/{name}",
                label=labels[image],
                split="train" if training[image] else "test",
                where=where,
                boxes=(boxes[image],) if image in boxes else (),
                parts=points.get(image, {}),
                attributes=tuple(map(float, described[image])) if image in described else None,
                files=(("mask", mask),) if mask in tree else (),
                name=name,
            )

    values = _class_attributes(tree, len(classes), len(attributes)) if attributes and CLASS_ATTRIBUTES in tree else None
    return Dataset(classes, records, (attributes, values) if values else None)


def read_files(record: Record, contents: Sequence[bytes]) -> FileAnnotations:
    with Image.open(io.BytesIO(contents[0])) as image:
        return FileAnnotations(mask=np.asarray(image.convert("L")))


def _by_image(tree: Tree, path: str) -> dict[str, tuple[str, str]]:
    """The rest of each line, with its place, by the image's number."""
    rows = {}
    for where, (image, rest) in tree.rows(path, 2):
        if image in rows:
            raise Refusal(f"{where}: image {brief(image)} comes a second time")
        rows[image] = (where, rest)
    return rows


def _of_images(tree: Tree, path: str, names: dict) -> dict[str, tuple[str, str]]:
    rows = _by_image(tree, path)
    same_keys(names, rows, "image", IMAGES, path)
    return rows


def _read_numbered(tree: Tree, path: str) -> tuple[str, ...]:
    """Names by number, from 1 on without a gap."""
    names: list[str] = []
    for where, (number, name) in tree.rows(path, 2):
        if whole(number, where) != len(names) + 1:
            raise Refusal(f"{where}: number {number} comes where {len(names) + 1} should")
        names.append(name)
    return tuple(names)


def _position(where: str, number: str, names: tuple[str, ...], path: str) -> int:
    position = whole(number, where) - 1
    if not 0 <= position < len(names):
        raise Refusal(f"{where}: {number} is outside 1 ... {len(names)}, which {path} names")
    return position


def _flag(where: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise Refusal(f"{where}: {brief(text)} is neither 0 (test) nor 1 (train)")
    return text == "1"


def _box(where: str, text: str) -> Box:
    sides = numbers(text.split(), where)
    if len(sides) != 4 or min(sides[2:]) <= 0:
        raise Refusal(f"{where}: {brief(text)} is not x y width height of a box")
    return sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3]


def _points(tree: Tree, names: dict) -> dict[str, dict[str, tuple[float, float]]]:
    """The visible points of every image."""
    parts = _read_numbered(tree, tree.needed(PARTS))
    points: dict[str, dict[str, tuple[float, float]]] = {}
    for where, (image, part, x, y, visible) in tree.rows(POINTS, 5):
        if image not in names:
            raise Refusal(f"{where}: there is no image {brief(image)} in {IMAGES}")
        name = parts[_position(where, part, parts, PARTS)]
        if _flag(where, visible):
            x_pixels, y_pixels = numbers([x, y], where)
            points.setdefault(image, {})[name] = x_pixels, y_pixels
    return points


def _attributes(tree: Tree) -> tuple[str, ...]:
    """The attributes' names; the official archive holds them beside the folder of the dataset."""
    path = tree.first("attributes/attributes.txt", "attributes.txt")
    if path:
        return _read_numbered(tree, path)
    above = tree.root.rpartition("/")[0]
    if not above or above.endswith("/"):
        return ()  # the root is a whole disk or bucket
    try:
        return _read_numbered(Tree(above, {}), "attributes.txt")
    except FileNotFoundError:
        return ()


def _class_attributes(tree: Tree, classes: int, attributes: int) -> list[list[float]]:
    values = []
    for number, line in tree.lines(CLASS_ATTRIBUTES):
        row = numbers(line.split(), f"{CLASS_ATTRIBUTES}:{number}")
        if len(row) != attributes or not all(0 <= percent <= 100 for percent in row):
            raise Refusal(f"{CLASS_ATTRIBUTES}:{number}: there are {len(row)} values; {attributes} between 0 and 100 are expected")
        values.append([percent / 100 for percent in row])
    if len(values) != classes:
        raise Refusal(f"{CLASS_ATTRIBUTES} has {len(values)} lines and {CLASSES} {classes}; there must be one a class")
    return values


def _image_attributes(tree: Tree, names: dict, attributes: int) -> dict[str, np.ndarray]:
    """Which attributes each image has. A few lines of the official file have a field too many, behind those that are read."""
    values = {image: np.zeros(attributes, bool) for image in names}
    for where, (image, attribute, present, *_) in tree.rows(IMAGE_ATTRIBUTES, 4):
        position = whole(attribute, where) - 1
        if image not in values or not 0 <= position < attributes:
            raise Refusal(f"{where}: there is no image {brief(image)}, or no attribute {brief(attribute)}")
        values[image][position] = _flag(where, present)
    return values


LAYOUT = Layout(recognises, dataset, read_files=read_files, aliases=("cub_200_2011",))
