"""Background reliance: the share of a map's positive part that lies outside the object's boxes, 1 minus the metric `energy` (E18)."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow.compute as pc

from pipeline.maps.boxes import pixels
from pipeline.reduce.analyses.images import Image
from pipeline.reduce.analyses.registry import analysis, lacks_methods
from pipeline.reduce.analyses.rows import Rows
from pipeline.reduce.analyses.scopes import rows_by_scope

MASK = "mass_accuracy"


@analysis("class", lacks=lacks_methods)
def background(images: Iterable[Image]) -> Iterator[dict]:
    """1 minus the metric `energy` (E18) of the map as it is stored, drawn at the size of the network's input.

    Null where nothing in the map speaks for the target. `area` is the share of the image outside the boxes: what a map of the same value
    everywhere would have, and the control `random` nearly has. Masks are no part of the tables: by mask there is the metric `mass_accuracy`.
    """
    for image in images:
        inside = pixels(image.boxes, image.size) if len(image.boxes) else np.zeros(image.size, bool)
        for stored in image.maps if inside.any() else ():
            names = {"image_id": image.image_id, "model": stored.model, "label": image.label}
            outside = 1 - energy(stored.drawn(image.size), inside)
            yield {
                **names,
                "method": stored.method,
                "target": stored.target,
                "outside": outside if np.isfinite(outside) else None,
                "area": float(1 - inside.mean()),
            }


def energy(raw: np.ndarray, inside: np.ndarray) -> float:
    """The share of the positive part of a map [H W], above its floor, that lies inside; NaN where there is none."""
    positive = np.maximum(raw, 0, dtype=np.float64)
    positive -= positive.min() if positive.any() else 0
    total = positive.sum()
    return float(positive[inside].sum() / total) if total else np.nan


@analysis("method", lacks=lacks_methods)
def background_summary(background: Rows, metrics: Rows) -> Iterator[dict]:
    """Means over images of `background`, with bootstrap intervals; where the run has the metric `mass_accuracy`, also 1 minus that.

    It is by the object's mask, by its boxes where it has no mask: the number is `outside_mask`.
    """
    keys = ("model", "method", "target")
    yield from rows_by_scope(background.read("image_id", "label", *keys, "outside", "area"), keys, ("outside", "area"))
    if MASK in metrics.columns:
        table = metrics.read("image_id", "label", *keys, MASK)
        outside = pc.subtract(1.0, table[MASK].cast("float64"))
        yield from rows_by_scope(table.append_column("outside_mask", outside), keys, ("outside_mask",))
