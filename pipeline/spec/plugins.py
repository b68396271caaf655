"""Methods and metrics of the user's own: modules that use the decorators of `pipeline.families`.

A plugin travels to the workers inside the questions, and installs itself wherever it arrives.
"""

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from pipeline import storage
from pipeline.families.registry import register
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal, one_line, public

GROUP = "saliency_atlas.methods"
TABLES = (METHODS, METRICS)
_INSTALLED: dict[str, tuple["Plugin", list[dict[str, Any]]]] = {}  # with what each brought to each table


@dataclass(frozen=True)
class Plugin:
    """A module with methods or metrics.

    Attributes:
        name: as it was asked for, a file or a module.
        code: what the file holds; None of a module, which every worker imports.
        digest: hash of the source, which is part of the identity of every cell of its methods.
        methods, metrics: the names it brings.
    """

    name: str
    code: str | None
    digest: str
    methods: frozenset[str]
    metrics: frozenset[str]

    def __reduce__(self):
        return _arrived, (self.name, self.code, self.digest)


def load(names: Sequence[str]) -> tuple[Plugin, ...]:
    """The plugins of a job: those named, and those that installed packages announce as entry points of `saliency_atlas.methods`.

    Raises:
        Refusal: where one cannot be imported, brings nothing, or takes a name that is taken.
    """
    announced = (entry.value.partition(":")[0] for entry in entry_points(group=GROUP))
    return tuple(_install(name, _read(name) if name.endswith(".py") else None) for name in dict.fromkeys([*announced, *names]))


def code_of(plugins: Sequence[Plugin], method: str = "", metric: str = "") -> dict[str, str]:
    """What the identity of a method's or a metric's cells holds of its code: nothing where it comes with the package."""
    brought = next((plugin.digest for plugin in plugins if method in plugin.methods or metric in plugin.metrics), None)
    return {"code": brought} if brought else {}


def _read(name: str) -> str:
    try:
        return storage.read_bytes(name).decode()
    except (OSError, ValueError) as error:
        raise Refusal(f"--plugins {public(name)} cannot be read: {one_line(error)}") from error


def _arrived(name: str, code: str | None, digest: str) -> Plugin:
    plugin = _install(name, code, before_others=True)
    if plugin.digest != digest:
        raise Refusal(f"--plugins {name}: a worker imports another version of this module; name its file, or ship it with --working-dir")
    return plugin


def _install(name: str, code: str | None, before_others: bool = False) -> Plugin:
    """Register what a plugin brings; its code is run unless it has been run as it is. Of an earlier version of a file nothing stays.

    before_others: whether another plugin with the same names gives way. It does in a worker, where it can only be an earlier job's: within
        one job the driver has refused it.
    """
    if name in _INSTALLED and _INSTALLED[name][0].code != code:
        _put_aside(name)
        del _INSTALLED[name]
    before = [dict(table) for table in TABLES]
    for other in _INSTALLED if before_others else _INSTALLED.keys() & {name}:
        _put_aside(other)
    try:
        _INSTALLED[name] = _registered(name, code)
    except Exception as error:  # importing runs the user's code
        for table, old in zip(TABLES, before, strict=True):
            table.clear()
            table.update(old)
        told = str(error) if isinstance(error, Refusal) else f"cannot be imported ({type(error).__name__}: {one_line(error)})"
        raise Refusal(f"--plugins {public(name)}: {told}") from error
    for table, old in zip(TABLES, before, strict=True):
        table.update(old | table)
    return _INSTALLED[name][0]


def _put_aside(name: str) -> None:
    for table, brought in zip(TABLES, _INSTALLED[name][1], strict=True):
        for key, entry in brought.items():
            if table.get(key) is entry:
                del table[key]


def _registered(name: str, code: str | None) -> tuple[Plugin, list[dict[str, Any]]]:
    """A plugin and what it brings to each table, where it now is."""
    if name in _INSTALLED:
        for table, brought in zip(TABLES, _INSTALLED[name][1], strict=True):
            for key, entry in brought.items():
                register(table, key, entry)
        return _INSTALLED[name]
    before = [dict(table) for table in TABLES]
    module = _imported(name) if code is None else _executed(name, code)
    brought = [
        {key: entry for key, entry in table.items() if key not in old or _made_in(module, entry)}
        for table, old in zip(TABLES, before, strict=True)
    ]
    if not any(brought):
        raise Refusal("it has no method; decorate a function with cam, masked, optimised, path, attention or metric of pipeline.families")
    return Plugin(name, code, _digest(module, code), *map(frozenset, brought)), brought


def _made_in(module: ModuleType, entry: object) -> bool:
    """Whether a function of an entry comes from this module or package, which may have been imported before it was named."""
    homes = [value.__module__ for value in vars(entry).values() if isinstance(value, FunctionType)]
    return any(home == module.__name__ or home.startswith(f"{module.__name__}.") for home in homes)


def _imported(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _executed(name: str, code: str) -> ModuleType:
    """A file's code as a module that no other file's takes the place of."""
    module = ModuleType(f"plugin_{hashlib.sha256(code.encode()).hexdigest()[:16]}")
    module.__file__ = name
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
    exec(compile(code, name, "exec"), vars(module))
    return module


def _digest(module: ModuleType, code: str | None) -> str:
    """Hash of a file's code, of a module's file, or of all files of a package."""
    if code is not None:
        return hashlib.sha256(code.encode()).hexdigest()
    path = Path(module.__file__)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
