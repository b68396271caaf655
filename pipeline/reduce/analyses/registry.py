"""The registry of analyses. An analysis computes a table from tables that a run holds, without a pass of a network.

It is a pure function from the rows of one unit of work to rows of the table of its name, whose columns are in `schema.ANALYSES`. Its
keyword-only parameters are its settings.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.families import Parameter, inputs_of, parameters, register
from pipeline.refusal import Refusal
from pipeline.spec.explain_spec import CONTROLS, ExplainSpec
from pipeline.spec.grammar import Choice, parse, parse_all

if TYPE_CHECKING:  # its module loads torch
    from pipeline.plan.check import CheckedJob

log = logging.getLogger(__name__)
Unit = Literal["class", "method", "run"]
Lacks = Callable[..., str | None]


@dataclass(frozen=True)
class Analysis:
    """A named analysis.

    Attributes:
        function: gives an iterable of rows, dictionaries by column. Of unit `class` it is given an iterable of `Image`, those of some
            classes; otherwise a `Rows` for each table that it names as a positional parameter, of one method or of the whole run.
        version: raised when its values change.
        reads: the tables whose rows decide its values; other analyses among them are computed before it.
        lacks: (spec, settings) -> what a run lacks for it, in words; None where it lacks nothing.
    """

    name: str
    function: Callable
    unit: Unit
    version: int
    reads: tuple[str, ...]
    lacks: Lacks

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return parameters(self.function)


ANALYSES: dict[str, Analysis] = {}


def analysis(unit: Unit, *, version: int = 1, lacks: Lacks | None = None, features: bool = False):
    """Add a function to the analyses; `features` says that it asks for the features of its images."""

    def add(function: Callable) -> Callable:
        tables = ("images", "predictions", "maps", *("features",) * features) if unit == "class" else tuple(sorted(inputs_of(function)))
        name = function.__name__
        register(ANALYSES, name, Analysis(name, function, unit, version, tables, lacks or _lacks_nothing))
        return function

    return add


def _lacks_nothing(spec: ExplainSpec, **settings) -> None:
    """A run of any job has all that is needed."""


def methods_beside_controls(spec: ExplainSpec) -> int:
    """The number of methods of a run that are no controls."""
    return sum(method.alias not in CONTROLS for method in spec.methods)


def with_analyses(checked: "CheckedJob") -> "CheckedJob":
    """The job with its analyses, each behind those that it reads; those of `all` that its run cannot have are skipped, with the reason.

    Raises:
        Refusal: for an unknown name or setting, an alias, or a named analysis for which the run lacks something.
    """
    choices, skipped = choices_of(checked.job.analyses, checked.job.analysis_args, checked.spec)
    for item in skipped:
        log.warning("skipping %s: %s", item["analysis"], item["reason"])
    return replace(checked, analyses=choices, skipped=[*checked.skipped, *(item for item in skipped if item not in checked.skipped)])


def lacks_methods(spec: ExplainSpec, **settings) -> str | None:
    """Why a run without methods, which has no maps, lacks what an analysis of maps needs."""
    return None if spec.methods else "it reads maps, and the run has no methods"


def choices_of(names: Sequence[str], settings: Sequence[str], spec: ExplainSpec) -> tuple[tuple[Choice, ...], list[dict]]:
    """The analyses of these names with those that they read, and those that cannot be had, with the reasons."""
    choices = {choice.alias: choice for choice in parse_all(names, ANALYSES, "analysis", settings)}
    for alias, choice in choices.items():
        if alias != choice.name:
            raise Refusal(f"analysis {choice.name!r} has the alias {alias!r}, but its table has one name; write {choice.name} alone")
    read = {name for choice in choices.values() for name in ANALYSES[choice.name].reads if name in ANALYSES}
    choices |= {name: replace(parse(name, ANALYSES, "analysis"), explicit=False) for name in sorted(read - choices.keys())}
    possible, skipped = [], []
    for choice in sorted(choices.values(), key=lambda choice: (reads_analyses(choice), choice.name)):
        reason = ANALYSES[choice.name].lacks(spec, **choice.args)
        if reason and choice.explicit:
            raise Refusal(f"analysis {choice.name}: {reason}")
        if reason:
            skipped.append({"analysis": choice.name, "reason": reason})
        else:
            possible.append(choice)
    return tuple(possible), skipped


def reads_analyses(choice: Choice) -> bool:
    """Whether an analysis reads the table of another."""
    return any(name in ANALYSES for name in ANALYSES[choice.name].reads)


def identity_of(choice: Choice) -> dict[str, Any]:
    """The part of a file's name that stands for an analysis: its name, version and settings."""
    return choice.identity(ANALYSES[choice.name])
