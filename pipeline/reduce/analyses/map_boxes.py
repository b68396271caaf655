"""Boxes of maps: around the largest connected part above the map's mean, as the metric `loc_error` has it (Opti-CAM appendix B), and around
that at or above a share of its maximum."""

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.maps.boxes import around, largest, overlaps
from pipeline.maps.render import unit
from pipeline.reduce.analyses.images import Image, StoredMap
from pipeline.reduce.analyses.registry import analysis, lacks_methods
from pipeline.refusal import Share

CORNERS = ("x0", "y0", "x1", "y1")


@analysis("class", lacks=lacks_methods)
def map_boxes(images: Iterable[Image], *, thresholds: tuple[Share, ...] = (0.2, 0.5)) -> Iterator[dict]:
    """Boxes around the largest connected part of the map as it is stored, drawn as metrics see it.

    A constant map has no boxes. `iou` is the overlap with the true box that it overlaps most, null where the image has none; above the mean
    it is 1 minus `loc_error`.
    """
    for image in images:
        for stored in image.maps:
            for threshold, box in boxes_of(stored, image.size, thresholds):
                yield {
                    "image_id": image.image_id,
                    "model": stored.model,
                    "method": stored.method,
                    "target": stored.target,
                    "threshold": threshold,
                    "box": dict(zip(CORNERS, box.tolist(), strict=True)),
                    "area": float((box[2] - box[0]) * (box[3] - box[1])),
                    "iou": float(overlaps(box[None], image.boxes).max()) if len(image.boxes) else None,
                }


def boxes_of(stored: StoredMap, size: tuple[int, int], thresholds: Iterable[float]) -> Iterator[tuple[float | None, np.ndarray]]:
    """The boxes [4] of a map, as fractions of the image: above its mean (None), and at or above each share of its maximum."""
    S = unit(stored.drawn(size)).astype(np.float64)
    if S.any():
        yield None, around(S)
        for threshold in thresholds:
            yield threshold, largest(threshold <= S)[1]
