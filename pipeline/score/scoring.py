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
    """One metric of one map: numbers by column, with their curves if they have any, or counts by name; or the `reason` for none."""

    values: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str | None = None
    error: Exception | None = None


def score_map(choice: Choice, view: MapView | PairView) -> Score:
    """One metric of one map. Whatever goes wrong is the score's reason; an exception other than Undefined is its error as well."""
    metric = METRICS[choice.name]
    try:
        if metric.needs_classes and isinstance(view, MapView) and view.predicted < 0:
            raise Undefined("there are no classes, so no probability and no predicted class")
        if not view.S.any() and not metric.constant:
            raise Undefined("the map is constant")
        values = metric.score(**_arguments(choice, view), **settings_of(metric.score, choice))
        return _counts(values) if metric.corpus_level else _numbers(choice, values)
    except Undefined as undefined:
        return Score(reason=str(undefined))
    except Exception as error:
        return Score(reason=f"{type(error).__name__}: {one_line(error)}", error=error)


def _arguments(choice: Choice, view: MapView | PairView) -> dict:
    """Everything that a metric's `score` asks for, by name."""
    metric = METRICS[choice.name]
    if isinstance(view, PairView):
        return {name: getattr(view, name) for name in sorted(metric.inputs)}
    perturbations = metric.resolve(choice.args, view.size) if metric.perturbations else {}
    # In a fixed order, attributes that cost no pass first: of several reasons for no value it is always the same that is given.
    names = sorted(metric.inputs, key=lambda name: (name in perturbations, name))
    return {name: view.response(perturbations[name]) if name in perturbations else getattr(view, name) for name in names}


def _counts(values: Mapping[str, np.ndarray]) -> Score:
    """The score of a metric that gives counts: one that is not finite would be so in every sum that it is part of."""
    if not all(np.isfinite(count).all() for count in values.values()):
        raise Undefined("the metric is not finite")
    return Score(values)


def _numbers(choice: Choice, values) -> Score:
    """The score of a metric that gives numbers, or a curve for each."""
    columns, metric = columns_of(choice), METRICS[choice.name]
    curves = dict(zip(columns, np.array(values, dtype=np.float64), strict=True)) if metric.curves else {}
    numbers = np.array([_area(curve) for curve in curves.values()] if curves else values, dtype=np.float64).reshape(-1)
    with np.errstate(over="ignore"):
        stored = numbers.astype(np.float32)  # as the tables keep them
    if not np.isfinite(stored).all():
        raise Undefined("the metric is not finite")
    return Score(dict(zip(columns, map(float, numbers), strict=True)), curves)


def _area(curve: np.ndarray) -> float:
    """E5: (sum_t a_t - a_0 / 2 - a_n / 2) / n; of a single point its height."""
    return float(np.trapezoid(curve) / (len(curve) - 1) if len(curve) > 1 else curve[0])


def settings_of(function: Callable, choice: Choice) -> dict:
    """The settings that one of a metric's functions takes."""
    return {name: value for name, value in choice.args.items() if name in parameters(function)}
