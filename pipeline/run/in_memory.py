"""Images and what is known of them as Python holds them (lists, arrays, tensors, Series) -> images as a source would give them.

N images, H W pixels of the network's input
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.backbones import Backbone
from pipeline.refusal import Refusal
from pipeline.sources import Problem
from pipeline.sources.images import DecodedImages, ImageRow, part_names_misfit
from pipeline.sources.labels import Classes, resolve
from pipeline.sources.sample import Problems, boxes_of, points_of


def decoded_images(
    images: Any, backbone: Backbone, *, labels: Any, keys: Any, boxes: Any, masks: Any, parts: Any, part_names: Iterable[str]
) -> DecodedImages:
    """Images as they come from a shard; a box or point that cannot be is one of their errors, as it is there.

    Raises:
        Refusal: where images, labels, masks or parts do not go with the backbone or with each other.
    """
    pixels, size = _pixels(images, backbone), tuple(backbone.image_size)
    given = {"labels": labels, "keys": keys, "boxes": boxes, "masks": masks, "parts": parts}
    each = {name: _one_each(name, values, len(pixels)) for name, values in given.items()}
    named = any(isinstance(label, str) for label in each["labels"])
    classes = Classes(backbone.num_classes, tuple(backbone.classes or ()) if named else ())
    rows, errors = [], []
    for i, given_key in enumerate(each["keys"]):
        key = f"{i:08d}" if given_key is None else str(given_key)
        problems: Problems = []
        codes, points = _parts(each["parts"][i], i, size, tuple(map(str, part_names)), problems)
        rows.append(
            ImageRow.annotated(
                image_id=key,
                key=key,
                width=size[1],
                height=size[0],
                label=_label(each["labels"][i], i, classes, backbone.name),
                boxes=_boxes(each["boxes"][i], problems),
                mask=_mask(each["masks"][i], i, size),
                points=points,
                parts=codes,
                part_names=tuple(map(str, part_names)) if codes is not None else (),
            )
        )
        errors += [Problem(key, None, "read", error, message).to_row() for error, message in problems]
    return DecodedImages(pixels, rows, [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels], errors)


def _pixels(images: Any, backbone: Backbone) -> np.ndarray:
    """uint8 [N 3 H W]."""
    if not isinstance(images, np.ndarray | torch.Tensor):
        stack = [_array(image) for image in images]
        if len({image.shape for image in stack}) > 1:
            raise Refusal(f"images have the shapes {' and '.join(sorted({str(image.shape) for image in stack}))}; bring them to one size")
        images = np.stack(stack) if stack else np.empty(0)
    pixels = np.ascontiguousarray(_array(images))
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, *backbone.image_size):
        size = " ".join(map(str, backbone.image_size))
        raise Refusal(f"images are {pixels.dtype} {pixels.shape}; {backbone.name} takes uint8 [N 3 {size}]")
    return pixels


def _one_each(name: str, values: Any, count: int) -> Sequence:
    """The values of each image in a list; None where nothing is known."""
    if values is None:
        return [None] * count
    if isinstance(values, str | bytes | Mapping | set) or not isinstance(values, Iterable):
        raise Refusal(f"{name} are a {type(values).__name__}; give one of each image, in a list, an array or a Series")
    each = list(values)
    if len(each) != count:
        raise Refusal(f"{name} of {len(each)} images for {count} images; give one of each, None where nothing is known")
    return each


def _label(value: Any, i: int, classes: Classes, network: str) -> int | None:
    """A class index; None where there is none: below 0, NaN, or whatever else stands for a gap."""
    value = _plain(value)
    if value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int | str):
        raise Refusal(f"the label of image {i} is {value!r}; give a class index, or None where there is none")
    if isinstance(value, int) and value < 0:
        return None
    index, _, problem = resolve(value, classes)
    if problem:
        raise Refusal(f"image {i}: {problem[1]}, the classes of {network}")
    return index


def _boxes(value: Any, problems: Problems) -> list:
    """The boxes of one image, given as a list or array of boxes, or as one box."""
    boxes = _plain(value)
    if isinstance(boxes, list) and len(boxes) == 4 and all(isinstance(side, int | float) for side in boxes):
        boxes = [boxes]
    return boxes_of(boxes, problems)


def _mask(value: Any, i: int, size: tuple[int, ...]) -> np.ndarray | None:
    if value is None:
        return None
    mask = _array(value)
    if mask.shape != size or mask.dtype.kind not in "biuf":
        raise Refusal(f"the mask of image {i} is {mask.dtype} {mask.shape}; give bool or uint8 [{' '.join(map(str, size))}]")
    return mask


def _parts(value: Any, i: int, size: tuple[int, ...], part_names: Sequence[str], problems: Problems) -> tuple[np.ndarray | None, Mapping]:
    """The codes of one image's parts, or their points by name."""
    if value is None or isinstance(value, Mapping):
        return None, points_of(_plain(value), problems)
    codes = _array(value)
    if codes.dtype != np.uint8 or codes.shape != size:
        raise Refusal(f"the parts of image {i} are {codes.dtype} {codes.shape}; give uint8 [{' '.join(map(str, size))}], or points by name")
    misfit = part_names_misfit(codes, part_names)
    if misfit:
        raise Refusal(f"the parts of image {i} do not go with part_names: {misfit}; name every code")
    return codes, {}


def _array(value: Any) -> np.ndarray:
    """A list, an array or a tensor on any device as an array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _plain(value: Any) -> Any:
    """Arrays, tensors and their numbers as lists and Python's numbers, however deep they lie."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
