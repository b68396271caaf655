"""One encoded image (JPEG, PNG or WebP) to pixels at the network's input size."""

import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.refusal import one_line
from pipeline.sources.shard import Box, Point, SourceError

PIXEL_LIMIT = 128 * 10**6  # of the encoded image; a bomb is refused by its header, before anything is decoded
RESIZED_LIMIT = 32 * 10**6  # of an image resized before its centre is cut out
Image.MAX_IMAGE_PIXELS = PIXEL_LIMIT  # Pillow's own guard, for whatever it opens inside

FORMATS = ("JPEG", "PNG", "WEBP")  # other decoders are never reached
PNG = b"\x89PNG\r\n\x1a\n"
STARTS = (b"\xff\xd8\xff", PNG, b"RIFF")
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # of a PNG
TURNING_CHUNKS = (
    b"eXIf",
    b"tEXtRaw profile type exif\0",
    b"zTXtRaw profile type exif\0",
    b"iTXtRaw profile type exif\0",
)  # which way is up
TURNING_LIMIT = 1 << 16  # bytes of one of them, compressed
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
CROPS = ("squash", "center")
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
Kept = TypeVar("Kept")


class Undecodable(SourceError):
    """An image that cannot be shown: `error` is its kind, `message` one line."""


@dataclass(frozen=True)
class DecodedImage:
    pixels: np.ndarray  # uint8 [3, H, W], RGB
    width: int  # of the whole image, in pixels, after EXIF rotation
    height: int
    window: Box  # the part of the image that `pixels` shows, as fractions of it

    def boxes(self, boxes: Iterable[Box]) -> list[Box]:
        """Boxes from fractions of the image to fractions of what is shown."""
        return clipped_boxes(boxes, self.window)

    def points(self, points: Mapping[str, Point]) -> dict[str, Point]:
        """Points by name, likewise; those outside are dropped."""
        x0, y0, x1, y1 = self.window
        moved = {name: ((x - x0) / (x1 - x0), (y - y0) / (y1 - y0)) for name, (x, y) in points.items()}
        return {name: point for name, point in moved.items() if min(point) >= 0 and max(point) < 1}

    def codes(self, png: bytes) -> np.ndarray:
        """An annotation of the image, a PNG of 8 bits a pixel and any size -> its codes where `pixels` are, uint8 [H W], nearest neighbour.

        Raises:
            Undecodable: as for images, and BadMask where a pixel is not one code.
        """
        return self._resize(png, Image.Resampling.NEAREST)

    def codes_opencv(self, png: bytes) -> np.ndarray:
        """`codes` as OpenCV takes the nearest of an annotation's pixels: the one at the corner of a pixel, not at its centre.

        Raises:
            Undecodable: as for `codes`.
        """
        whole = np.asarray(look(png, _to_codes, ("PNG",)))
        x0, y0, x1, y1 = self.window
        rows, columns = (
            np.floor(low * side + np.arange(n) * (1 / (n / ((high - low) * side)))).astype(int).clip(0, side - 1)
            for side, n, low, high in zip(whole.shape, self.pixels.shape[1:], (y0, x0), (y1, x1), strict=True)
        )
        return whole[rows[:, None], columns]

    def silhouette(self, png: bytes) -> np.ndarray:
        """The pixels that a mask touches, uint8 [H W] of 0 and 1: those above 0 once Pillow has resized it by its own filter (E23).

        Raises:
            Undecodable: as for `codes`.
        """
        return (self._resize(png, Image.Resampling.BICUBIC) > 0).astype(np.uint8)

    def _resize(self, png: bytes, filter: Image.Resampling) -> np.ndarray:
        whole = look(png, _to_codes, ("PNG",))
        x0, y0, x1, y1 = (min(edge * side, side) for edge, side in zip(self.window, whole.size * 2, strict=True))
        return np.asarray(whole.resize(self.pixels.shape[:0:-1], filter, box=(x0, y0, x1, y1)))


def decode(
    image: bytes, size: tuple[int, int], interpolation: str = "bicubic", crop: str = "squash", crop_pct: float = 1.0
) -> DecodedImage:
    """Decode, rotate upright, convert to RGB and bring to `size` (height, width).

    `squash` ignores the aspect; `center` brings the shorter side to size / crop_pct and cuts the middle out.

    Raises:
        Undecodable: EmptyImage, UnknownFormat, TruncatedImage, TooManyPixels or UndecodableImage.
        ValueError: an option is none of those known.
    """
    if interpolation not in INTERPOLATIONS or crop not in CROPS or not 0 < crop_pct <= 1:
        raise ValueError(f"no such preprocessing: interpolation {interpolation!r}, crop {crop!r}, crop_pct {crop_pct!r}")
    upright = look(image, rgb)
    width, height = upright.size
    if crop == "squash":
        resized, window = upright.resize((size[1], size[0]), INTERPOLATIONS[interpolation]), WHOLE
    else:
        resized, window = _centre(upright, size, INTERPOLATIONS[interpolation], crop_pct)
    return DecodedImage(np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1)), width, height, window)


def _centre(image: Image.Image, size: tuple[int, int], filter: Image.Resampling, crop_pct: float) -> tuple[Image.Image, Box]:
    """Resize, then cut, as timm and torchvision do, whose rounding of sides and corners is kept."""
    width, height = image.size
    tall, wide = (math.floor(side / crop_pct) for side in size)
    if tall * width < wide * height:  # the width is the side that decides
        tall = int(wide * height / width)
    else:
        wide = int(tall * width / height)
    left, top = round((wide - size[1]) / 2), round((tall - size[0]) / 2)
    corners = (left, top, left + size[1], top + size[0])
    window = (corners[0] / wide, corners[1] / tall, corners[2] / wide, corners[3] / tall)
    if wide * tall <= RESIZED_LIMIT:
        return image.resize((wide, tall), filter).crop(corners), window
    # The window alone: equal but for rounding, and an image of 1 x 10,000 pixels does not become huge on the way.
    box = (window[0] * width, window[1] * height, window[2] * width, window[3] * height)
    return image.resize((size[1], size[0]), filter, box=box), window


def _to_codes(opened: Image.Image) -> Image.Image:
    opened.load()
    if opened.mode not in ("1", "L", "P"):
        raise Undecodable("BadMask", f"its mode is {opened.mode}; an annotation is a PNG of 8 bits a pixel, grey or with a palette")
    # Of a palette the codes count, not the colours.
    return opened.convert("L") if opened.mode == "1" else Image.fromarray(np.asarray(opened))


def look(image: bytes, keep: Callable[[Image.Image], Kept], formats: tuple[str, ...] | None = FORMATS) -> Kept:
    """Open an image in one of these formats, in any that Pillow knows where they are None; returns what `keep` takes from it.

    Raises:
        Undecodable: as `decode` does.
    """
    if not image:
        raise Undecodable("EmptyImage", "the image has no bytes")
    try:
        return _open(image, keep, formats)
    except Undecodable:
        raise
    except Exception as error:  # the image boundary: damaged bytes reach many decoders, each with exceptions of its own
        damage = error
    try:  # Pillow gives a PNG up for the sake of one bad chunk, although others than these hold the pixels
        return _open(_pixels_alone(image), keep, formats)
    except Exception:
        raise _undecodable(image, damage, formats) from damage


def _open(image: bytes, keep: Callable[[Image.Image], Kept], formats: tuple[str, ...] | None) -> Kept:
    with Image.open(io.BytesIO(image), formats=formats) as opened:
        width, height = opened.size
        if width * height > PIXEL_LIMIT:
            raise Undecodable("TooManyPixels", f"the image claims {width} x {height} pixels; at most {PIXEL_LIMIT:,} are decoded")
        return keep(opened)


def _pixels_alone(image: bytes) -> bytes:
    """A PNG without its text, its colour space and whatever else is neither its pixels nor says which way is up.

    Raises:
        ValueError: it has nothing of that kind, or is no PNG.
    """
    if not image.startswith(PNG):
        raise ValueError("no PNG")
    pixels = PNG + b"".join(image[start:stop] for start, stop in _chunks(image) if _shows(image[start:stop]))
    if len(pixels) == len(image):
        raise ValueError("nothing to leave out")
    return pixels


def _chunks(png: bytes) -> Iterator[tuple[int, int]]:
    """Where each chunk of a PNG starts and stops, with its length and its check sum; the last one may be cut."""
    start = len(PNG)
    while start < len(png):
        stop = start + 12 + int.from_bytes(png[start : start + 4])
        yield start, stop
        start = stop


def _shows(chunk: bytes) -> bool:
    """Whether a chunk is of the pixels, or says which way is up and is not damaged."""
    body, check = chunk[4:-4], int.from_bytes(chunk[-4:])
    turns = body.startswith(TURNING_CHUNKS) and len(body) <= TURNING_LIMIT and zlib.crc32(body) == check
    return turns or body.startswith(PIXEL_CHUNKS)


def _rotate(image: Image.Image) -> Image.Image:
    """The image as its EXIF data says it is to be shown."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF beside sound pixels: they are shown as they are stored
        return image


def rgb(opened: Image.Image) -> Image.Image:
    """The whole image in RGB, as a viewer shows it.

    Numbers wider than 8 bits are scaled: those of 16 bits from 65535. TIFF has wider ones and fractions as well, and does not say what
    white is: of 1 (fractions), 255 and 65535, the least that no pixel exceeds.

    Raises:
        Undecodable: where a pixel is none of these numbers.
    """
    opened.load()
    image = _rotate(opened)
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image.convert("RGB")
    wide = np.asarray(image).astype(np.float64 if image.mode == "F" else np.int64)
    tops = ((1,) if image.mode == "F" else ()) + ((255, 65535) if opened.format == "TIFF" and image.mode in ("I", "F") else (65535,))
    top = next((top for top in tops if wide.max() <= top), None)
    if top is None or not wide.min() >= 0:
        raise Undecodable("UndecodableImage", f"its pixels go from {wide.min():g} to {wide.max():g}; 0 to 65535 can be shown")
    return Image.fromarray(((wide * 255 + top / 2) // top).astype(np.uint8)).convert("RGB")


def _undecodable(image: bytes, error: Exception, formats: tuple[str, ...] | None) -> Undecodable:
    message = one_line(error, 200)
    if isinstance(error, Image.DecompressionBombError):
        return Undecodable("TooManyPixels", message)
    if isinstance(error, UnidentifiedImageError) and not image.startswith(STARTS):
        known = "JPEG, PNG or WebP" if formats else "image of a known format"
        return Undecodable("UnknownFormat", f"this is no {known}; it starts with {image[:12]!a}")
    if formats and _is_cut(image, error, message):
        return Undecodable("TruncatedImage", f"the image ends after {len(image):,} bytes, before it is whole")
    if isinstance(error, UnidentifiedImageError):
        return Undecodable("UndecodableImage", "its header is damaged")
    return Undecodable("UndecodableImage", f"{type(error).__name__}: {message}")


def _is_cut(image: bytes, error: Exception, message: str) -> bool:
    if image.startswith(b"RIFF"):
        return len(image) < 12 or len(image) < 8 + int.from_bytes(image[4:8], "little")
    has_end = image.rstrip(b"\0").endswith(b"\xff\xd9") or b"IEND" in image[-16:]
    return not has_end or "truncated" in message.lower()


def clipped_boxes(boxes: Iterable[Box], window: Box) -> list[Box]:
    """Boxes as fractions of `window`, clipped to it; those outside are dropped."""
    x0, y0, x1, y1 = window
    mapped = []
    for left, top, right, bottom in boxes:
        left, right = (min(max((x - x0) / (x1 - x0), 0.0), 1.0) for x in (left, right))
        top, bottom = (min(max((y - y0) / (y1 - y0), 0.0), 1.0) for y in (top, bottom))
        if left < right and top < bottom:
            mapped.append((left, top, right, bottom))
    return mapped
