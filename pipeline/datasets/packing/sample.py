"""One image with its annotations as the members of a WebDataset sample."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.datasets.layouts import LAYOUTS, SHOWN, FileAnnotations, Record
from pipeline.refusal import Refusal, one_line
from pipeline.sources.decode import Undecodable, look, rgb
from pipeline.sources.sample import IMAGES

ORIENTATION = 0x0112  # the EXIF tag
DIGITS = 6  # of a fraction
QUALITY = 95  # of a re-encoded JPEG
ANY = None  # formats: whatever Pillow reads can be packed
# Where the point (x, y) of a stored image lies in the image as it is shown, by EXIF orientation; fractions of each.
TURNED = {
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unpackable(Exception):
    """The reason why one image cannot be packed."""


@dataclass(frozen=True)
class Item:
    """A record with its place in the shards."""

    key: str
    label_name: str | None
    record: Record


def members(item: Item, layout: str, contents: Sequence[bytes], resize: int | None) -> dict[str, bytes]:
    """The sample: file ending -> content. `contents` are those of the record's image and of its other files.

    Boxes and points come as fractions of the image as it is shown, after EXIF rotation; so do masks.

    Raises:
        Unpackable: the image cannot be read, or no source would read it.
        Refusal: an annotation file is damaged.
    """
    image, *others = contents
    size, orientation = _read_header(image)
    ending = item.record.image.rpartition(".")[2].lower()
    from_files = _read_files(item.record, layout, others) if others else FileAnnotations()
    upright = size[::-1] if orientation >= 5 else size
    fitted = upright
    if resize:
        fitted = _fit_size(upright, resize)
        image, ending = _resize(image, fitted), "jpg"
    elif ending in ("jpe", "jfif"):
        ending = "jpg"  # by which every reader of shards knows it
    elif ending not in IMAGES:
        raise Unpackable(f"ends in .{ending}; shards hold {' '.join(IMAGES)}, so give --resize to encode it anew")
    annotations = _annotations_of(item, from_files, size, orientation) | {"width": upright[0], "height": upright[1]}
    sample = {ending: image, "json": json.dumps(annotations, ensure_ascii=False).encode()}
    for name, mask in (("mask.png", from_files.mask), ("parts.png", from_files.parts)):
        if mask is not None:
            sample[name] = _encode_png(mask, orientation, fitted if resize else None)
    return sample


def _read_header(image: bytes) -> tuple[tuple[int, int], int]:
    """Width and height as stored, and the EXIF orientation."""
    try:
        return look(image, lambda opened: (opened.size, _read_orientation(opened)), ANY)
    except Undecodable as error:
        raise Unpackable(f"cannot be read: {error.message}") from error


def _read_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF beside sound pixels
        return 1
    return orientation if orientation in TURNED else 1


def _read_files(record: Record, layout: str, contents: Sequence[bytes]) -> FileAnnotations:
    read_files = LAYOUTS[layout].read_files
    assert read_files, "a layout whose records have files of their own reads them"
    try:
        return read_files(record, contents)
    except Refusal:
        raise
    except Exception as error:  # the file boundary: what is damaged is named
        raise Refusal(f"{' or '.join(record.paths[1:])} cannot be read: {one_line(error, 100)}") from error


def _annotations_of(item: Item, from_files: FileAnnotations, size: tuple[int, int], orientation: int) -> dict:
    """The content of the sample's JSON."""
    record = item.record
    annotations: dict[str, Any] = {"label": record.label, "label_name": item.label_name, "split": record.split}
    boxes = _fractions_of_boxes(record.boxes, record.frame or size, orientation)
    boxes += _fractions_of_boxes(from_files.boxes, from_files.frame or size, orientation)
    if boxes:
        annotations["boxes"] = boxes
    if record.parts:
        width, height = record.frame or size
        turn = TURNED.get(orientation, lambda x, y: (x, y))
        annotations["parts"] = {part: _round_fractions(turn(x / width, y / height)) for part, (x, y) in record.parts.items()}
    if from_files.parts is not None:
        annotations["part_names"] = list(record.part_names)
    if record.attributes is not None:
        annotations["attributes"] = list(record.attributes)
    return annotations


def _fractions_of_boxes(boxes: Iterable, frame: tuple[float, float], orientation: int) -> list[list[float]]:
    """Boxes as fractions of the image as shown, cut off at its border; those outside are dropped."""
    width, height = frame
    turn = TURNED.get(orientation, lambda x, y: (x, y)) if frame != SHOWN else lambda x, y: (x, y)
    fractions = []
    for x0, y0, x1, y1 in boxes:
        corners = [turn(x / width, y / height) for x, y in ((x0, y0), (x1, y1))]
        (left, right), (top, bottom) = (sorted(sides) for sides in zip(*corners, strict=True))
        box = _round_fractions((left, top, right, bottom))
        if box[0] < box[2] and box[1] < box[3]:
            fractions.append(box)
    return fractions


def _round_fractions(fractions: Iterable[float]) -> list[float]:
    return [round(min(max(fraction, 0.0), 1.0), DIGITS) for fraction in fractions]


def _fit_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The size whose shorter side is at most `shorter`, with the same proportions."""
    scale = min(1.0, shorter / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(image: bytes, size: tuple[int, int]) -> bytes:
    try:
        upright = look(image, rgb, ANY)
    except Undecodable as error:
        raise Unpackable(f"cannot be decoded: {error.message}") from error
    buffer = io.BytesIO()
    upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _encode_png(mask: np.ndarray, orientation: int, size: tuple[int, int] | None) -> bytes:
    image = Image.fromarray(mask)
    if orientation in TRANSPOSED:
        image = image.transpose(TRANSPOSED[orientation])
    if size:
        image = image.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
