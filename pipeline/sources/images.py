"""Decoded images of a task, and how what belongs to their pixels travels beside them."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

CODES = ("mask", "parts", "silhouette")  # what a row knows of every pixel [H W], or None


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images of a task: pixels uint8 [N 3 H W], rows of `images`, a hash of each image's bytes, earlier errors.

    `maps` are those that are scored as they are stored, [h w] each, by method and target and then by image.
    """

    pixels: np.ndarray
    rows: list[dict]
    digests: list[str]
    errors: list[dict] = field(default_factory=list)
    maps: Mapping[tuple[str, str], Mapping[str, np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> "DecodedImages":
        return DecodedImages(self.pixels[part], self.rows[part], self.digests[part], maps=self.maps)

    def at(self, places: Sequence[int]) -> "DecodedImages":
        return DecodedImages(self.pixels[places], [self.rows[i] for i in places], [self.digests[i] for i in places], maps=self.maps)

    def halves(self) -> tuple["DecodedImages", "DecodedImages"]:
        return self[: len(self) // 2], self[len(self) // 2 :]


def pack_rows(rows: Sequence[dict]) -> tuple[list[dict], bytes]:
    """Rows for JSON, and the codes [H W] they hold, one after the other."""
    codes = [row[name] for row in rows for name in CODES if row[name] is not None]
    told = [{**row, **{name: row[name] is not None for name in CODES}} for row in rows]
    return told, zlib.compress(np.array(codes, np.uint8).tobytes(), 1)


def unpack_rows(rows: Sequence[dict], codes: bytes, size: tuple[int, int]) -> list[dict]:
    """The rows that `packed` packed."""
    each = iter(np.frombuffer(zlib.decompress(codes), np.uint8).reshape(-1, *size))
    return [{**row, **{name: next(each) if row[name] else None for name in CODES}} for row in rows]
