"""Methods and metrics of the user's own: modules that use the decorators of `pipeline.families`.

A plugin travels to the workers inside the explain spec, and installs itself wherever it arrives.
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
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.families.registry import collected
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal, one_line, public

GROUP = "saliency_atlas.methods"
TABLES = (METHODS, METRICS)


@dataclass(frozen=True)
class Plugin:
    """A module with methods or metrics.

    Attributes:
        name: a file or a module, as the user wrote it.
        code: the content of the file; None of a module, which every worker imports.
        digest: hash of the source, which is part of the identity of every output of its methods.
        methods, metrics: the names of its entries.
    """

    name: str
    code: str | None
    digest: str
    methods: frozenset[str]
    metrics: frozenset[str]

    def __reduce__(self):
        return _arrived, (self.name, self.code, self.digest)


class _Installed(NamedTuple):
    """A plugin and the entries it has for each of `TABLES`."""

    plugin: Plugin
    entries: tuple[dict[str, Any], dict[str, Any]]


_INSTALLED: dict[str, _Installed] = {}  # by the name of the file or module


def load(names: Sequence[str]) -> tuple[Plugin, ...]:
    """The plugins of a job: those named, and those that installed packages announce as entry points of `saliency_atlas.methods`.

    Raises:
        Refusal: one cannot be imported, registers nothing, or takes a name that is taken.
    """
    packages = (entry.value.partition(":")[0] for entry in entry_points(group=GROUP))
    return tuple(_install(name, _read(name) if name.endswith(".py") else None) for name in dict.fromkeys([*packages, *names]))


def code_of(plugins: Sequence[Plugin], method: str = "", metric: str = "") -> dict[str, str]:
    """The part of the identity of a method's or a metric's outputs that stands for its code; empty where it comes with the package."""
    digest = next((plugin.digest for plugin in plugins if method in plugin.methods or metric in plugin.metrics), None)
    return {"code": digest} if digest else {}


def _read(name: str) -> str:
    try:
        return storage.read_bytes(name).decode()
    except (OSError, ValueError) as error:
        raise Refusal(f"--plugins {public(name)} cannot be read: {one_line(error)}") from error


def _arrived(name: str, code: str | None, digest: str) -> Plugin:
    plugin = _install(name, code, replaces=True)
    if plugin.digest != digest:
        raise Refusal(f"--plugins {name}: a worker imports another version of this module; name its file, or ship it with --working-dir")
    return plugin


def _install(name: str, code: str | None, replaces: bool = False) -> Plugin:
    """Register a plugin's entries in place of those of its earlier version; its code is run unless it has been run as it is.

    Nothing is registered where a plugin is refused.

    Args:
        name: a file or a module, as the user wrote it.
        code: the content of the file; None of a module.
        replaces: whether entries of other plugins give way to those of the same name. They do in a worker, where they can only be an
            earlier job's: within one job the driver has refused them.

    Raises:
        Refusal: the code cannot be run, registers nothing, or takes a name that is taken.
    """
    earlier = _INSTALLED.get(name)
    old = _INSTALLED.values() if replaces else filter(None, [earlier])
    try:
        installation = earlier if earlier and earlier.plugin.code == code else _collect_entries(name, code)
        _refuse_taken_names(installation, [installation, *old])
    except Exception as error:  # importing runs the user's code
        reason = str(error) if isinstance(error, Refusal) else f"cannot be imported ({type(error).__name__}: {one_line(error)})"
        raise Refusal(f"--plugins {public(name)}: {reason}") from error
    for table, entries, earlier_entries in zip(TABLES, installation.entries, earlier.entries if earlier else ({}, {}), strict=True):
        for key, entry in earlier_entries.items():
            if table.get(key) is entry:
                del table[key]
        table.update(entries)
    _INSTALLED[name] = installation
    return installation.plugin


def _refuse_taken_names(installation: _Installed, replaced: Sequence[_Installed]) -> None:
    """Refuse an entry whose name another one has, unless that is an entry of a `replaced` plugin."""
    for i, table in enumerate(TABLES):
        for key in installation.entries[i].keys() & table.keys():
            if not any(plugin.entries[i].get(key) is table[key] for plugin in replaced):
                raise Refusal(f"two entries are named {key!r}; rename one")


def _collect_entries(name: str, code: str | None) -> _Installed:
    """Run a plugin's code, and collect its methods and metrics."""
    with collected() as entries:
        module = _import_module(name) if code is None else _execute(name, code)
    before = ({key: entry for key, entry in table.items() if _made_in(module, entry)} for table in TABLES)  # imported before it was named
    methods, metrics = (old | new for old, new in zip(before, entries, strict=True))
    if not methods and not metrics:
        raise Refusal("it has no method; decorate a function with cam, masked, optimised, path, attention or metric of pipeline.families")
    return _Installed(Plugin(name, code, _digest(module, code), frozenset(methods), frozenset(metrics)), (methods, metrics))


def _made_in(module: ModuleType, entry: object) -> bool:
    """Whether a function of an entry comes from this module or package."""
    homes = [value.__module__ for value in vars(entry).values() if isinstance(value, FunctionType)]
    return any(home == module.__name__ or home.startswith(f"{module.__name__}.") for home in homes)


def _import_module(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _execute(name: str, code: str) -> ModuleType:
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
    if module.__file__ is None:
        raise Refusal("it is a folder without __init__.py; name the module in it")
    path = Path(module.__file__)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
