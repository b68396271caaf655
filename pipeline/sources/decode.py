"""One encoded image (JPEG, PNG or WebP) to pixels at the network's input size."""

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.sources.shard import Box, Point, SourceError

PIXEL_LIMIT = 128 * 10**6  # of the encoded image; a bomb is refused by its header, before anything is decoded
RESIZED_LIMIT = 32 * 10**6  # of an image resized before its centre is cut out
Image.MAX_IMAGE_PIXELS = PIXEL_LIMIT  # Pillow's own guard, for whatever it opens inside

FORMATS = ("JPEG", "PNG", "WEBP")  # other decoders are never reached
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
CROPS = ("squash", "center")
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


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
        whole = np.asarray(_load(png, ("PNG",), _to_codes))
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
        whole = _load(png, ("PNG",), _to_codes)
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
    upright = _upright(image)
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


def _upright(image: bytes) -> Image.Image:
    """The whole image in RGB, as a viewer shows it."""
    return _load(image, FORMATS, lambda opened: _rgb(_rotate(opened)))


def _to_codes(opened: Image.Image) -> Image.Image:
    if opened.mode not in ("1", "L", "P"):
        raise Undecodable("BadMask", f"its mode is {opened.mode}; an annotation is a PNG of 8 bits a pixel, grey or with a palette")
    # Of a palette the codes count, not the colours.
    return opened.convert("L") if opened.mode == "1" else Image.fromarray(np.asarray(opened))


def _load(image: bytes, formats: tuple[str, ...], keep: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decode an image, and pass it through `keep`."""
    if not image:
        raise Undecodable("EmptyImage", "the image has no bytes")
    try:
        with Image.open(io.BytesIO(image), formats=formats) as opened:
            width, height = opened.size
            if width * height > PIXEL_LIMIT:
                raise Undecodable("TooManyPixels", f"the image claims {width} x {height} pixels; at most {PIXEL_LIMIT:,} are decoded")
            opened.load()
            return keep(opened)
    except Undecodable:
        raise
    except Exception as error:  # the image boundary: damaged bytes reach many decoders, each with exceptions of its own
        raise _undecodable(image, error) from error


def _rotate(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF beside sound pixels: they are shown as they are stored
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16 bits a pixel; Pillow's own conversion clips at 255 instead of scaling.
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _undecodable(image: bytes, error: Exception) -> Undecodable:
    message = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return Undecodable("TooManyPixels", message)
    if isinstance(error, UnidentifiedImageError) and not image.startswith(STARTS):
        return Undecodable("UnknownFormat", f"this is no JPEG, PNG or WebP; it starts with {image[:12]!a}")
    if _is_cut(image, error, message):
        return Undecodable("TruncatedImage", f"the image ends after {len(image):,} bytes, before it is whole")
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
