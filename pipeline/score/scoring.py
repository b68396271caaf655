"""One metric of one map."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.families import METRICS, Undefined, parameters
from pipeline.refusal import one_line
from pipeline.score.views import MapView, PairView
from pipeline.spec.columns import columns_of
from pipeline.spec.grammar import Choice


@dataclass(frozen=True)
class Score:
    """What one metric says of one map: numbers by column, with their curves if they have any, or counts by name; or the `reason`."""

    values: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str | None = None
    error: Exception | None = None


def score_map(asked: Choice, drawn: MapView | PairView) -> Score:
    """One metric of one map. Whatever goes wrong is the score's reason; what should not have is its error as well."""
    metric = METRICS[asked.name]
    try:
        if metric.needs_classes and drawn.predicted < 0:
            raise Undefined("there are no classes, so no probability and no predicted class")
        if not drawn.S.any() and not metric.constant:
            raise Undefined("the map is constant")
        codes = metric.resolve(asked.args, drawn.size) if metric.perturbations else {}
        # In a fixed order, what costs no pass first: of several reasons to say nothing it is always the same that is told.
        inputs = sorted(metric.inputs, key=lambda name: (name in codes, name))
        given = {name: drawn.answer(codes[name]) if name in codes else getattr(drawn, name) for name in inputs}
        found = metric.score(**given, **settings_of(metric.score, asked))
        if metric.corpus_level:
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


def settings_of(function: Callable, asked: Choice) -> dict:
    """The settings that one of a metric's functions takes."""
    return {name: value for name, value in asked.args.items() if name in parameters(function)}
