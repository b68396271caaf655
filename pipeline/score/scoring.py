"""One metric of one map."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.families import METRICS, Undefined, inputs_of, parameters
from pipeline.refusal import Refusal, counted, one_line
from pipeline.score.views import MapView, PairView
from pipeline.spec.columns import columns_of
from pipeline.spec.grammar import Choice

log = logging.getLogger(__name__)
_TRIED: set[Choice] = set()  # metrics of the dataset whose numbers were counted once
_FAILED: set[Choice] = set()  # those whose function has failed, which is told once


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
        return _counts(choice, values) if metric.corpus_level else _numbers(choice, values)
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


def _numbers(choice: Choice, values) -> Score:
    """The score of a metric that gives numbers, or a curve for each."""
    columns, metric = columns_of(choice), METRICS[choice.name]
    found = real(values, [*columns])
    if metric.curves and (found.ndim != 2 or len(found) != len(columns)):
        raise Refusal(f"it gives numbers {list(found.shape)}; curves of its {counted(len(columns), 'columns')} are [{len(columns)}, N]")
    curves = dict(zip(columns, found, strict=True)) if metric.curves else {}
    numbers = by_column(choice, [_area(curve) for curve in curves.values()] if curves else found)
    _refuse_unbounded(np.array([*numbers.values()]))
    return Score(numbers, curves)


def _counts(choice: Choice, values) -> Score:
    """The score of a metric of the dataset: counts by name, all that its numbers are made of, one number for each column."""
    corpus_level = METRICS[choice.name].corpus_level
    assert corpus_level, "other metrics give numbers"
    if not isinstance(values, Mapping):
        raise Refusal(f"it gives a {type(values).__name__}; a metric of the dataset gives counts by name")
    lacking = inputs_of(corpus_level) - {"n", *values}
    if lacking:
        raise Refusal(f"it counts {_names(values)}; its corpus_level asks for {_names(lacking)} as well")
    counts = {name: np.atleast_1d(real(value, [name])) for name, value in values.items()}
    matrix = next((name for name, count in counts.items() if count.ndim > 1), None)
    if matrix:
        raise Refusal(f"it counts {matrix} as numbers {list(counts[matrix].shape)}; counts of one name are a row of numbers")
    _refuse_unbounded(*counts.values())
    if choice not in _TRIED:  # here, and not when everything is published
        corpus_numbers(choice, {**counts, "n": np.ones(1)}, tells=False)  # which may well fail on a single image
        _TRIED.add(choice)
    return Score(counts)


def corpus_numbers(choice: Choice, counts: Mapping[str, np.ndarray], tells: bool = True) -> dict[str, float] | None:
    """The numbers of a metric of the dataset by its columns, from its counts; None where its function fails.

    Raises:
        Refusal: where there are more or fewer numbers than columns.
    """
    corpus_level = METRICS[choice.name].corpus_level
    assert corpus_level, "other metrics give numbers"
    given = {name: counts["n"][0] if name == "n" else counts[name] for name in inputs_of(corpus_level)}
    try:
        values = corpus_level(**given, **settings_of(corpus_level, choice))
    except Exception as error:  # perhaps a user's code
        if tells and choice not in _FAILED:
            _FAILED.add(choice)
            log.warning("metric %s has no number of the dataset: %s: %s", choice.alias, type(error).__name__, one_line(error))
        return None
    return by_column(choice, values)


def _refuse_unbounded(*numbers: np.ndarray) -> None:
    """Raise Undefined where numbers are not finite in single precision, as the tables keep them, or would not be in any sum."""
    with np.errstate(over="ignore"):
        if not all(np.isfinite(part.astype(np.float32)).all() for part in numbers):
            raise Undefined("the metric is not finite")


def real(values, names: Iterable[str]) -> np.ndarray:
    """Numbers that a metric gives for columns or counts of these `names`, in double precision.

    Raises:
        Refusal: where they come by other names than their order, or are no real numbers.
    """
    if isinstance(values, Mapping):
        raise Refusal(f"it gives {_names(values)} by name; it fills {_names(names)}, in this order and without names")
    try:
        if np.iscomplexobj(values):
            raise TypeError("they are complex")
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Refusal(f"it gives what is no real number for {_names(names)}: {one_line(error, 100)}") from error


def by_column(choice: Choice, values) -> dict[str, float]:
    """The numbers of a metric by its columns.

    Raises:
        Refusal: where there are more or fewer, naming both counts and the columns.
    """
    columns, numbers = columns_of(choice), real(values, columns_of(choice)).reshape(-1)
    if len(numbers) != len(columns):
        raise Refusal(f"it gives {counted(len(numbers), 'numbers')}; it fills {counted(len(columns), 'columns')}: {_names(columns)}")
    return dict(zip(columns, map(float, numbers), strict=True))


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(str, names)) if isinstance(names, frozenset) else map(str, names)) or "nothing"


def _area(curve: np.ndarray) -> float:
    """E5: (sum_t a_t - a_0 / 2 - a_n / 2) / n; of a single point its height."""
    return float(np.trapezoid(curve) / (len(curve) - 1) if len(curve) > 1 else curve[0])


def settings_of(function: Callable, choice: Choice) -> dict:
    """The settings that one of a metric's functions takes."""
    return {name: value for name, value in choice.args.items() if name in parameters(function)}
