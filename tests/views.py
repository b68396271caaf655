"""Maps as metrics see them, made by hand: a map, the object beside it, and what a toy network says of it."""

import numpy as np

from pipeline.families import Boxed, ClassProbs, Cropped, Dimmed, Powered, Remapped
from pipeline.metrics import METRICS
from pipeline.score.partials import add_score, totals
from pipeline.score.scoring import score_map
from pipeline.score.views import MapView
from pipeline.sources.images import ImageRow
from pipeline.spec.grammar import parse

MAP = np.array([[0, 2, 2, 0], [0, 8, 4, 0], [0, 5, 0, 0], [1, 0, 0, 2]], dtype=np.float32) / 8
BOX = (0.25, 0.25, 0.75, 0.75)


def image_row(*corners, label=0, mask=None):
    return ImageRow.annotated(image_id="x", key="x", label=label, boxes=corners, mask=mask)


class Toy(dict):
    """What a network of four by four pixels says that has the label on 0.5 and the predicted class on 0.8, linear and squared in the
    share of the image that is left."""

    def __missing__(self, code):
        if isinstance(code, Remapped):
            return np.stack([MAP] if isinstance(code.change, Dimmed) else [MAP / 2, MAP]).astype(np.float64)
        if isinstance(code, Dimmed):
            return class_probs([[0.1, 0.7]] if code.inverse else [[0.2, 0.9]])
        if isinstance(code, Cropped):
            return class_probs([[0.25, 0.5]])
        if isinstance(code, Boxed):
            return class_probs([[0.5, 0], [0.25, 0]] if code.dimmed else [[0.6, 0], [0.1, 0]])
        if isinstance(code, Powered):
            return class_probs([[1 / (1 + power), 0] for power in code.powers])
        left = 1 - np.minimum(np.array(code.counts) * code.patch**2 / 16, 1)
        left = 1 - left if code.reveal else left
        return class_probs(np.stack([0.5 * left, 0.8 * left**2], 1), (left <= 0.5) & (code.order == "map"))

    def __contains__(self, code):
        return True


def class_probs(p, top=None):
    p = np.array(p)
    return ClassProbs(p, 1 - p, np.full_like(p, 0.1), np.zeros(len(p), int) if top is None else top.astype(int))


def drawn(map, about, predicted=0, render="bilinear", size=None):
    return MapView(map, render, size or map.shape, about, predicted, class_probs([[0.5, 0.8]]), Toy())


def numbers(written, draws):
    """What a metric comes to over some maps: a number per column, and the counts of a dataset-level one."""
    asked = parse(written, METRICS, "metric")
    if not METRICS[asked.name].corpus_level:
        (draw,) = draws
        score = score_map(asked, draw)
        assert score.error is None, score.error
        return dict(score.values) or score.reason
    sums = {}
    for draw in draws:
        add_score(sums, score_map(asked, draw))
    return {**sums, **totals(asked, sums)}


ODD = {
    "no box": (MAP, image_row(), "no box"),
    "a box outside": (MAP, image_row((1.2, 1.2, 1.6, 1.6)), "no box lies in the image"),
    "a box without area": (MAP, image_row((0.5, 0.2, 0.5, 0.9)), "no box lies in the image"),
    "a box between pixels": (MAP, image_row((0.4, 0.4, 0.6, 0.6)), "no pixel's centre lies in a box"),
    "a mask without an object": (MAP, image_row(BOX, mask=np.zeros((4, 4), np.uint8)), "no pixel of the mask shows the object"),
    "a mask of what is neither": (MAP, image_row(BOX, mask=np.full((4, 4), 128, np.uint8)), "no pixel of the mask shows the object"),
    "no label": (MAP, image_row(BOX, label=None), "no label"),
    "a constant map": (np.full((4, 4), 0.3, np.float32), image_row(BOX), "the map is constant"),
    "NaN": (np.where(MAP == 1, np.nan, MAP), image_row(BOX), "the map holds NaN or infinity"),
    "no map": (ValueError("too much"), image_row(BOX), "there is no map: ValueError"),
}


def random_case(seed, size=(40, 48)):
    """A smooth map at some size with one to three boxes, like a CAM's."""
    rng = np.random.default_rng(seed)
    map = np.maximum(rng.standard_normal((5, 6)), 0).astype(np.float32)
    corners = [(x, y, x + 0.1 + w, y + 0.1 + h) for x, y, w, h in 0.6 * rng.random((rng.integers(1, 4), 4))]
    return drawn(map, image_row(*corners, label=int(rng.integers(2))), size=size)
