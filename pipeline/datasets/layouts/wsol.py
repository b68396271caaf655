"""The metadata of wsolevaluation (Choe et al. 2020): CUB, ImageNet and OpenImages30k for weakly supervised localisation.

metadata/NAME/SPLIT/ for each split of train, val and test: image_ids.txt (a path a line), class_labels.txt (`path,label` from 0), and where they are
there image_sizes.txt (`path,width,height`) and localization.txt (`path,x0,y0,x1,y1` in pixels, a line per box; or
`path,mask,ignore`, a line per object, the ignore region on an image's first line only). Images and masks lie in dataset/NAME/, in the
root, or in the metadata's folder. The split folders may also be the root's own.

NAME is the level, where there are several. A class is called like the folder that all of its images, and no other class's, lie in; else by its number.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.datasets.layouts.layout import SPLITS, Box, Dataset, FileAnnotations, Layout, Record
from pipeline.datasets.layouts.tree import Tree, brief, numbers, same_keys, whole
from pipeline.refusal import Refusal

IDS, LABELS, SIZES, FOUND = "image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt"


@dataclass(frozen=True)
class Objects:
    """The boxes and masks of one image by localization.txt."""

    boxes: tuple[Box, ...] = ()
    masks: tuple[tuple[str, str], ...] = ()  # object or ignore, and the file


def recognises(tree: Tree) -> bool:
    return bool(_folders(tree))


def dataset(tree: Tree, level: str | None) -> Dataset:
    folder = _folder(tree, level)
    splits = {split: f"{folder}{split}/" for split in SPLITS if f"{folder}{split}/{IDS}" in tree}
    ids = {split: {image: where for where, (image,) in tree.rows(f"{path}{IDS}", 1)} for split, path in splits.items()}
    labels = {split: _labels(tree, path, ids[split]) for split, path in splits.items()}
    sizes = {split: _sizes(tree, path, ids[split]) for split, path in splits.items()}
    objects = {split: _objects(tree, path, ids[split]) for split, path in splits.items()}
    folder_of_images = _folder_of_images(tree, folder, ids)

    def records() -> Iterator[Record]:
        for split, images in ids.items():
            for image, where in images.items():
                annotated = objects[split].get(image, Objects())
                yield Record(
                    image=folder_of_images + image,
                    label=labels[split][image],
                    split=split,
                    where=where,
                    boxes=annotated.boxes,
                    frame=sizes[split].get(image),
                    files=tuple((kind, folder_of_images + path) for kind, path in annotated.masks),
                    name=image,
                )

    return Dataset(_classes(labels), records)


def read_files(record: Record, contents: Sequence[bytes]) -> FileAnnotations:
    """The union of the masks is the object; of the ignore region, what is not."""
    regions: dict[str, list[np.ndarray]] = {"object": [], "ignore": []}
    for (what, _), content in zip(record.files, contents, strict=True):
        regions[what].append(_region(content))
    mask = np.where(np.any(regions["object"], axis=0), np.uint8(255), np.uint8(0))
    for ignored in regions["ignore"]:
        mask[ignored & (mask == 0)] = 128
    return FileAnnotations(mask=mask)


def _region(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L")) > 0


def _folders(tree: Tree) -> list[str]:
    """Folders that hold a split's folder."""
    folders = {path.removesuffix(f"{split}/{IDS}") for split in SPLITS for path in tree.files if path.endswith(f"{split}/{IDS}")}
    return sorted(folder for folder in folders if not folder or folder.endswith("/"))


def _folder(tree: Tree, level: str | None) -> str:
    folder_of = {_dataset(folder): folder for folder in _folders(tree)}
    if level is None and len(folder_of) == 1:
        return next(iter(folder_of.values()))
    if level not in folder_of:
        have = " ".join(sorted(folder_of)) or f"no folder with train/{IDS}, val/{IDS} or test/{IDS}"
        raise Refusal(f"{tree.root} holds the metadata of {have}; say which with --level")
    return folder_of[level]


def _dataset(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _labels(tree: Tree, folder: str, ids: dict) -> dict[str, int]:
    labels = {}
    for where, (image, text) in _rows(tree, tree.needed(f"{folder}{LABELS}"), 2):
        labels[image] = whole(text, where)
        if labels[image] < 0:
            raise Refusal(f"{where}: {text} is not the number of a class")
    same_keys(ids, labels, "image", f"{folder}{IDS}", f"{folder}{LABELS}")
    return labels


def _sizes(tree: Tree, folder: str, ids: dict) -> dict[str, tuple[float, float]]:
    path = f"{folder}{SIZES}"
    if path not in tree:
        return {}
    sizes = {}
    for where, (image, *sides) in _rows(tree, path, 3):
        width, height = numbers(sides, where)
        sizes[image] = width, height
        if min(width, height) < 1:
            raise Refusal(f"{where}: {brief(','.join(sides))} is not a width and a height")
    same_keys(ids, sizes, "image", f"{folder}{IDS}", path)
    return sizes


def _objects(tree: Tree, folder: str, ids: dict) -> dict[str, Objects]:
    path = f"{folder}{FOUND}"
    objects: dict[str, Objects] = {}
    if path not in tree:
        return {}
    for where, fields in _rows(tree, path, 5, 3):
        image, earlier = fields[0], objects.get(fields[0], Objects())
        if image not in ids:
            raise Refusal(f"{where}: there is no image {brief(image)} in {folder}{IDS}")
        if len(fields) == 5:
            x0, y0, x1, y1 = numbers(fields[1:], where)
            objects[image] = Objects((*earlier.boxes, (x0, y0, x1, y1)), earlier.masks)
        else:
            masks = [(what, path) for what, path in zip(("object", "ignore"), fields[1:], strict=True) if path]
            objects[image] = Objects(earlier.boxes, (*earlier.masks, *masks))
    return objects


def _rows(tree: Tree, path: str, *fields: int) -> Iterator[tuple[str, list[str]]]:
    for number, line in tree.lines(path):
        values = [field.strip() for field in line.split(",")]
        if len(values) not in fields:
            raise Refusal(f"{path}:{number}: {brief(line)} has {len(values)} fields; {' or '.join(map(str, fields))} are expected")
        yield f"{path}:{number}", values


def _folder_of_images(tree: Tree, folder: str, ids: dict[str, dict]) -> str:
    """The prefix of the images' paths."""
    first = [next(iter(images)) for images in ids.values() if images]
    places = (f"dataset/{_dataset(folder)}/", folder, "", f"{_dataset(folder)}/", "images/")
    return next((prefix for prefix in places if any(prefix + image in tree for image in first)), places[0])


def _classes(labels: dict[str, dict[str, int]]) -> tuple[str, ...]:
    folders_of: dict[int, set[str]] = {}
    for labels_of in labels.values():
        for image, label in labels_of.items():
            folders_of.setdefault(label, set()).add(_dataset(image.rpartition("/")[0]))
    names = {label: next(iter(names_of)) if len(names_of) == 1 else "" for label, names_of in folders_of.items()}
    distinct = "" not in names.values() and len(set(names.values())) == len(names)
    return tuple(names.get(label, str(label)) if distinct else str(label) for label in range(max(folders_of, default=-1) + 1))


LAYOUT = Layout(recognises, dataset, levels=None, read_files=read_files, aliases=("openimages_wsol",))
