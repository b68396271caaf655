"""Datasets in the layout they are published in. A layout is one file in this folder that holds a `LAYOUT`."""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.datasets.layouts.layout import SHOWN, SPLITS, Dataset, FileAnnotations, Layout, Record
from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal, choose

__all__ = ["Dataset", "LAYOUTS", "Layout", "Record", "SHOWN", "SPLITS", "FileAnnotations", "Tree", "find", "level_of", "named"]


def _layouts() -> dict[str, Layout]:
    modules = {module.name: import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)}
    return {name: module.LAYOUT for name, module in sorted(modules.items()) if hasattr(module, "LAYOUT")}


LAYOUTS: dict[str, Layout] = _layouts()


def find(tree: Tree) -> str:
    """The layout that a folder's files are in.

    Raises:
        Refusal: none, or more than one.
    """
    for last in (False, True):
        names = [name for name, layout in LAYOUTS.items() if layout.last is last and layout.recognises(tree)]
        if len(names) > 1:
            raise Refusal(f"{tree.root} looks like {' and '.join(names)}; say which with --layout")
        if names:
            return names[0]
    examples = ", ".join(list(tree.files)[:3])
    raise Refusal(f"{tree.root} is in no layout that is known ({', '.join(LAYOUTS)}); its first files are {examples}")


def named(name: str) -> str:
    """A layout's own name, from that or from an alias.

    Raises:
        Refusal: there is no such layout.
    """
    names = {alias: own for own, layout in LAYOUTS.items() for alias in (own, *layout.aliases)}
    return names[choose(name, [*names, "auto"], "layout")]


def level_of(name: str, level: str | None) -> str | None:
    """The level to pack; the layout's first where none is asked for.

    Raises:
        Refusal: the layout has no such level.
    """
    levels = LAYOUTS[name].levels
    if levels is None:
        return level
    if level is not None and not levels:
        raise Refusal(f"--level {level}: the layout {name} has one kind of classes only; leave --level out")
    if levels and level is not None:
        return choose(level, levels, f"level of the layout {name}")
    return levels[0] if levels else None
