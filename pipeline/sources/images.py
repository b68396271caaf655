"""Decoded images of a task and everything known of each, and how the annotations of their pixels travel as bytes."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.sources.shard import Box, Point

PIXEL_FIELDS = ("mask", "parts", "silhouette", "mask_opencv")  # fields of an ImageRow with a code for every pixel [H W], or None


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """Everything known of one image: its row of the table `images`, and the annotations that metrics ask for.

    Attributes:
        image_id, key: its name in all tables, and its name in its shard, which seeds its noise.
        shard: the shard's name; empty for an image held in memory.
        width, height: of the whole image, in pixels.
        boxes: the object's boxes, sides x0 y0 x1 y1 as fractions of the part that is shown.
        points: the visible parts by name, (x, y) likewise.
        mask: [H W], 0 the ground, 128 neither object nor ground, all else the object.
        parts: uint8 [H W], code i for part_names[i - 1] and 0 for none.
        silhouette: uint8 [H W], above 0 where the object shows; only where pixels go to the nearest point.
        mask_opencv: `mask` by OpenCV's nearest neighbour, only where a metric asks for it.
    """

    image_id: str
    key: str
    shard: str = ""
    width: int | None = None
    height: int | None = None
    label: int | None = None
    label_name: str | None = None
    boxes: Sequence[Mapping[str, float]] = ()
    split: str | None = None
    points: Mapping[str, Point] = field(default_factory=dict)
    mask: np.ndarray | None = None
    parts: np.ndarray | None = None
    silhouette: np.ndarray | None = None
    mask_opencv: np.ndarray | None = None
    part_names: Sequence[str] = ()

    @classmethod
    def annotated(
        cls,
        *,
        boxes: Iterable[Box] = (),
        points: Mapping[str, Point] | None = None,
        mask: np.ndarray | None = None,
        parts: np.ndarray | None = None,
        silhouette: Callable[[], np.ndarray] | None = None,
        **fields,
    ) -> "ImageRow":
        """The row of an image with annotations as its source has them.

        Parameters:
            silhouette: draws the silhouette of the mask; by default it is where the mask is above 0.
            fields: of the row, as they are.
        """
        corners = [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes]
        shadow = None
        if mask is not None and parts is None and points:  # pixels go to the nearest point, as far as the object reaches
            shadow = silhouette() if silhouette else (mask > 0).astype(np.uint8)
        return cls(boxes=corners, points=points or {}, mask=mask, parts=parts, silhouette=shadow, **fields)

    @property
    def has_mask(self) -> bool:
        return self.mask is not None


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images of a task: pixels uint8 [N 3 H W], a row and a hash of the encoded bytes for each, and earlier errors."""

    pixels: np.ndarray
    rows: Sequence[ImageRow]
    digests: Sequence[str]
    errors: Sequence[dict] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> "DecodedImages":
        return DecodedImages(self.pixels[part], self.rows[part], self.digests[part])

    def at(self, positions: Sequence[int]) -> "DecodedImages":
        return DecodedImages(self.pixels[positions], [self.rows[i] for i in positions], [self.digests[i] for i in positions])

    def halves(self) -> tuple["DecodedImages", "DecodedImages"]:
        return self[: len(self) // 2], self[len(self) // 2 :]


def part_names_misfit(parts: np.ndarray, names: Sequence[str]) -> str | None:
    """Why an index image of parts [H W] does not go with the names of its codes; None where it does."""
    return f"it holds {parts.max()}, and part_names has {len(names)} names" if parts.max() > len(names) else None


def pack_rows(rows: Sequence[ImageRow]) -> tuple[list[dict], bytes]:
    """Rows for JSON, and the codes [H W] of their annotations, one after the other."""
    codes = [getattr(row, name) for row in rows for name in PIXEL_FIELDS if getattr(row, name) is not None]
    plain = [{**vars(row), **{name: getattr(row, name) is not None for name in PIXEL_FIELDS}} for row in rows]
    return plain, zlib.compress(np.array(codes, np.uint8).tobytes(), 1)


def unpack_rows(plain: Sequence[dict], codes: bytes, size: tuple[int, int]) -> list[ImageRow]:
    """The rows that `pack_rows` packed; `size` is (H, W)."""
    images = iter(np.frombuffer(zlib.decompress(codes), np.uint8).reshape(-1, *size))
    return [ImageRow(**{**fields, **{name: next(images) if fields[name] else None for name in PIXEL_FIELDS}}) for fields in plain]
