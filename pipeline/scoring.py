"""A map and what is true of its image -> what the metrics say of it.

h w cells, H W pixels of the network's input
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from pipeline.classes.pairs import Pair, Parts
from pipeline.families import METRICS, Perturbation, Said, Undefined, asked_for, parameters
from pipeline.maps import boxes as geometry
from pipeline.maps.render import unit, upsample
from pipeline.refusal import Refusal, one_line
from pipeline.requests import Request
from pipeline.tables.identity import seed_of

WHOLE = 2**20  # curves are added up in these parts: whole numbers, exact in any order up to 2^33 images
GROUPS = 20  # of images, resampled for the interval of a number that only the whole dataset has
IGNORED = 128  # the code of a mask's pixels that are neither object nor ground
FIXED = {"image_id", "model", "method", "target", "class_id", "label", "reasons"}


@dataclass(frozen=True)
class Drawn:
    """One float map as it came from its method, drawn at the input's size on demand; each attribute is something a metric may ask for.

    Attributes:
        map: [h w], or the exception its method raised.
        render: how it becomes an image.
        size: (H, W).
        row: what is known of the image: label, boxes, and `mask` [H W] where the data has one (0 the ground, IGNORED neither,
            all else the object).
        predicted: the class with the highest logit, -1 where there are no classes.
        clean: what the network says of the image as it is.
        said: the answers to the codes of metrics; None, or an exception, where there is none.
    """

    map: np.ndarray | Exception
    render: str
    size: tuple[int, int]
    row: Mapping
    predicted: int
    clean: Said | None = None
    said: dict[Perturbation, Said | np.ndarray | Exception | None] = field(default_factory=dict)

    @cached_property
    def raw(self) -> np.ndarray:
        if isinstance(self.map, Exception):
            raise Undefined(f"there is no map: {type(self.map).__name__}")
        if not np.isfinite(self.map).all():
            raise Undefined("the map holds NaN or infinity")
        return upsample(torch.from_numpy(self.map)[None], self.size, self.render)[0].numpy()

    @cached_property
    def S(self) -> np.ndarray:
        return unit(self.raw).astype(np.float64)

    @cached_property
    def boxes(self) -> np.ndarray:
        given = self.row.get("boxes") or ()
        kept = geometry.clipped([box[side] for side in ("x0", "y0", "x1", "y1")] for box in given)
        if not len(kept):
            raise Undefined("no box lies in the image" if given else "no box")
        return kept

    @cached_property
    def inside(self) -> np.ndarray:
        found = geometry.pixels(self.boxes, self.size)
        if not found.any():
            raise Undefined("no pixel's centre lies in a box")
        return found

    @cached_property
    def positive(self) -> np.ndarray:
        mask = self.row.get("mask")
        found = self.inside if mask is None else (mask > 0) & self.counted
        if not found.any():
            raise Undefined("no pixel of the mask shows the object")
        return found

    @cached_property
    def counted(self) -> np.ndarray:
        mask = self.row.get("mask")
        return np.ones(self.size, bool) if mask is None else mask != IGNORED

    @cached_property
    def Bp(self) -> np.ndarray:
        return geometry.around(self.S)

    @property
    def p(self) -> np.ndarray:
        return self.clean.p[0]

    @property
    def q(self) -> np.ndarray:
        return self.clean.q[0]

    @property
    def d(self) -> np.ndarray:
        return self.clean.d[0]

    def answer(self, code: Perturbation) -> Said | np.ndarray:
        """What was said of the images changed by this map as `code` has it."""
        found = self.said[code]
        if isinstance(found, Exception):
            raise found
        if found is None or not len(found if isinstance(found, np.ndarray) else found.p):
            raise Undefined("the map of a changed image holds NaN or infinity")
        return found

    @property
    def object(self) -> np.ndarray | None:
        """`inside`, or None where there is none."""
        try:
            return self.inside
        except Undefined:
            return None

    @property
    def drawable(self) -> bool:
        """Whether there is a map to change the image by."""
        return not isinstance(self.map, Exception) and bool(np.isfinite(self.map).all())

    @property
    def label(self) -> int:
        if self.row["label"] is None:
            raise Undefined("no label")
        return self.row["label"]


@dataclass(frozen=True)
class Contrast:
    """What a metric may ask of an image about a pair of classes: one map that tells them apart, or two of which the difference does.

    The difference is taken of the maps as they come, drawn, then made absolute, then brought to [0, 1] (CALM's code; the paper
    normalises first).
    """

    maps: tuple[Drawn, ...]
    pair: Pair
    parts: Parts | None

    @cached_property
    def raw(self) -> np.ndarray:
        first, *others = (each.raw for each in self.maps)
        return np.abs(first - others[0]) if others else first

    @cached_property
    def S(self) -> np.ndarray:
        return unit(self.raw).astype(np.float64) if len(self.maps) > 1 else self.maps[0].S

    @cached_property
    def positive(self) -> np.ndarray:
        if self.parts is None:
            raise Undefined("no parts")
        found = self.parts.showing(self.pair.parts) & self.counted
        if not found.any():
            raise Undefined("no part in which the classes differ is visible")
        return found

    @property
    def counted(self) -> np.ndarray:
        return self.maps[0].counted


@dataclass(frozen=True)
class Score:
    """What one metric says of one map: numbers by column, with their curves if they have any, or counts by name; or the `reason`."""

    values: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str | None = None
    error: Exception | None = None


def scored(asked: Request, drawn: Drawn | Contrast) -> Score:
    """One metric of one map. Whatever goes wrong is the score's reason; what should not have is its error as well."""
    metric = METRICS[asked.name]
    try:
        if metric.asks_classes and drawn.predicted < 0:
            raise Undefined("there are no classes, so no probability and no predicted class")
        if not drawn.S.any() and not metric.constant:
            raise Undefined("the map is constant")
        codes = metric.codes(asked.args, drawn.size) if metric.sets else {}
        # In a fixed order, what costs no pass first: of several reasons to say nothing it is always the same that is told.
        asks = sorted(metric.asks, key=lambda name: (name in codes, name))
        given = {name: drawn.answer(codes[name]) if name in codes else getattr(drawn, name) for name in asks}
        found = metric.score(**given, **settings_of(metric.score, asked))
        if metric.total:
            return Score(found)
        curves = dict(zip(columns_of(asked), np.array(found, dtype=np.float64), strict=True)) if metric.curves else {}
        values = [_area(curve) for curve in curves.values()] if curves else np.array(found, dtype=np.float64).reshape(-1)
        if not np.isfinite(values).all():
            raise Undefined("the metric is not finite")
        return Score(dict(zip(columns_of(asked), map(float, values), strict=True)), curves)
    except Undefined as undefined:
        return Score(reason=str(undefined))
    except Exception as error:
        return Score(reason=f"{type(error).__name__}: {one_line(error)}", error=error)


def _area(curve: np.ndarray) -> float:
    """E5: (sum_t a_t - a_0 / 2 - a_n / 2) / n; of a single point its height."""
    return float(np.trapezoid(curve) / (len(curve) - 1) if len(curve) > 1 else curve[0])


def settings_of(function: Callable, asked: Request) -> dict:
    """The settings that one of a metric's functions takes."""
    return {name: value for name, value in asked.args.items() if name in parameters(function)}


def columns_of(asked: Request) -> dict[str, str | None]:
    """What a metric fills under the name it was asked for by -> which way is better."""
    return {_column_name(asked, column): better for column, better in METRICS[asked.name].columns.items()}


def binary_columns(asked: Request) -> set[str]:
    """Those of its columns whose values are 0 or 1."""
    return {_column_name(asked, column) for column in METRICS[asked.name].binary}


def _column_name(asked: Request, column: str) -> str:
    return asked.alias + column.removeprefix(asked.name)


def group_of(image_id: str) -> str:
    """The group of images that an image belongs to, decided by a hash of its id."""
    return f"group {seed_of('group', image_id) % GROUPS:02d}"


def add_score(sums: dict[str, np.ndarray], score: Score, group: str | None = None) -> None:
    """Add one map's counts to sums by name: `n` and `n_null` count maps with and without them, `null: REASON` says why.

    A curve counts as `curve: COLUMN`, rounded to whole parts. Counts of an image that has a `group` count once more as `GROUP: NAME`.
    """
    curves = {f"curve: {column}": np.round(curve * WHOLE) for column, curve in score.curves.items()}
    counts = {"n_null": [1], f"null: {score.reason}": [1]} if score.reason else {"n": [1], **(curves or score.values)}
    if group and not score.reason:
        counts |= {f"{group}: {kind}": values for kind, values in counts.items()}
    for kind, values in counts.items():
        sums[kind] = sums.get(kind, 0) + np.asarray(values, dtype=np.float64)


def by_group(sums: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Group -> the sums of its images by name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for kind, values in sums.items():
        group, _, name = kind.partition(": ")
        if group.startswith("group "):
            found.setdefault(group, {})[name] = values
    return found


def totals(asked: Request, sums: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """What a dataset-level metric fills, from its sums; None where no map had a value."""
    metric = METRICS[asked.name]
    if "n" not in sums:
        return dict.fromkeys(columns_of(asked))
    told = {**sums, "n": sums["n"][0]}
    found = metric.total(**{name: told[name] for name in asked_for(metric.total)}, **settings_of(metric.total, asked))
    values = np.array(found, dtype=np.float64).reshape(-1).tolist()
    return {column: value if np.isfinite(value) else None for column, value in zip(columns_of(asked), values, strict=True)}


def refuse_clashes(asked: Sequence[Request]) -> None:
    """Two metrics that fill one column, or one that fills a column that means something else.

    Raises:
        Refusal: naming the column.
    """
    taken = dict.fromkeys(FIXED, "the tables")
    for metric in asked:
        for column in columns_of(metric):
            if column in taken:
                raise Refusal(f"metric {metric.alias!r} fills {column!r}, which {taken[column]!r} fills already; give one an alias")
            taken[column] = metric.alias
