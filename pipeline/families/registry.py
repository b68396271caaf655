"""The registries of all methods and metrics, and the reading of a function's signature: its inputs and its settings."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

from pipeline.refusal import Refusal

T = TypeVar("T")
_LATER = "later"
Later = Annotated[T, _LATER]  # the type of a setting that came later than its method or metric


@dataclass(frozen=True)
class Parameter:
    """One setting of a method, target or metric: its type (an annotation) and its default.

    `later` says that values were stored before the setting was there: at its default it has no part in their identity.
    """

    type: Any
    default: Any
    later: bool = False


@cache
def parameters(function: Callable) -> Mapping[str, Parameter]:
    """The keyword-only parameters of `function`."""
    signature = inspect.signature(function).parameters.values()
    return {p.name: _parameter(p.annotation, p.default) for p in signature if p.kind is p.KEYWORD_ONLY}


def _parameter(annotation: Any, default: Any) -> Parameter:
    marks = getattr(annotation, "__metadata__", ())
    if _LATER not in marks:
        return Parameter(annotation, default)
    plain, others = annotation.__origin__, tuple(mark for mark in marks if mark != _LATER)
    return Parameter(Annotated[plain, *others] if others else plain, default, later=True)


@cache
def inputs_of(function: Callable) -> frozenset[str]:
    """The positional parameters of `function`: its inputs."""
    signature = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD)


def checked_inputs(name: str, function: Callable, vocabulary: set[str], family: str) -> frozenset[str]:
    """The inputs of `function`, all of which its family offers.

    Raises:
        Refusal: where one is not among the `known`.
    """
    inputs = inputs_of(function)
    if inputs - vocabulary:
        raise Refusal(f"{name!r} asks for {sorted(inputs - vocabulary)}; the {family} family offers {sorted(vocabulary)}")
    return inputs


METHODS: dict[str, Any] = {}
METRICS: dict[str, Any] = {}
_APART: dict[int, dict[str, Any]] = {}  # id of a registry -> the table that entries go to in its place, see `collected`


def register(table: dict, name: str, entry: Any) -> None:
    """Put `entry` into a registry under `name`.

    Raises:
        Refusal: the registry has an entry of that name.
    """
    goal = _APART.get(id(table), table)
    if name in goal:
        raise Refusal(f"two entries are named {name!r}; rename one")
    goal[name] = entry


@contextmanager
def collected() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Collect the methods and metrics that the block registers; the registries stay as they are."""
    methods: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    _APART.update({id(METHODS): methods, id(METRICS): metrics})
    try:
        yield methods, metrics
    finally:
        _APART.clear()


TOGETHER = {"ad_ai_ag": ("ad", "ai", "ag")}  # names that stand for several
