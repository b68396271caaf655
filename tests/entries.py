"""Facts about each method and metric, from the modules beside their tests: tests/methods/NAME.py and tests/metrics/NAME.py."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def files(folder: str) -> set[str]:
    """The names of all methods, or metrics, that have a module in `folder`."""
    return {path.stem for path in (HERE / folder).glob("*.py") if not path.stem.startswith("test_")} - {"__init__"}


def fact(folder: str, name: str, fact: str, default: Any = ...) -> Any:
    """One fact about a method or a metric.

    Raises:
        AssertionError: naming the file to write, where there is none or where it lacks a fact that has no default.
    """
    module = f"tests.{folder}.{name}"
    path = f"tests/{folder}/{name}.py"
    if find_spec(module) is None:
        assert default is not ..., f"{name} has no test entries: write {path} (tests/{folder}/__init__.py says what it holds)"
        return default
    value = getattr(import_module(module), fact, default)
    assert value is not ..., f"{path} lacks {fact}; tests/{folder}/__init__.py says what it holds"
    return value


def facts(folder: str, names: Iterable[str], name: str) -> dict[str, Any]:
    """The values of a fact by method or metric, of those in `names` that state it."""
    return {entry: value for entry in names if (value := fact(folder, entry, name, None)) is not None}


def cases(folder: str, names: Iterable[str], name: str) -> dict[str, Any]:
    """The entries of a fact that is a dict, of all `names` together."""
    return {key: value for values in facts(folder, names, name).values() for key, value in values.items()}


def cheap(method: str) -> str:
    """A method as written at next to no cost."""
    return fact("methods", method, "TINY", None) or fact("methods", method, "SHORT", method)


def missing(folder: str, names: Iterable[str], required: Iterable[str]) -> Iterator[str]:
    """The files and facts that are still to write for `names`, a sentence each."""
    for entry in sorted(names):
        for name in required:
            try:
                fact(folder, entry, name)
            except AssertionError as error:
                yield str(error)
                break
