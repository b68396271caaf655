"""Datasets in the layout they are published in. A layout is one file in this folder that holds a `LAYOUT`."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules

from pipeline.datasets.layouts.layout import SHOWN, SPLITS, Dataset, FileAnnotations, Layout, Record
from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal, choose

__all__ = ["Dataset", "LAYOUTS", "Layout", "Record", "SHOWN", "SPLITS", "FileAnnotations", "Tree", "find", "level_of", "named"]


log = logging.getLogger(__name__)
DEEPEST = 3  # folders between the root that a user names and that of a dataset


def _layouts() -> dict[str, Layout]:
    modules = {module.name: import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)}
    return {name: module.LAYOUT for name, module in sorted(modules.items()) if hasattr(module, "LAYOUT")}


LAYOUTS: dict[str, Layout] = _layouts()


def find(tree: Tree, name: str = "auto") -> tuple[str, Tree]:
    """The layout that a folder's files are in, unless one is named, and the folder itself or the one in it that is in that layout.

    Raises:
        Refusal: none, or more than one, or the folder lies around that of the classes.
    """
    if name != "auto":
        is_here = LAYOUTS[name].last or LAYOUTS[name].recognises(tree)
        return (name, tree) if is_here else _find_inside(tree, (name,)) or (name, tree)
    own = tuple(name for name, layout in LAYOUTS.items() if not layout.last)
    if found := _recognised(tree, own):
        return found, tree
    if inside := _find_inside(tree, own):
        return inside
    general = tuple(name for name in LAYOUTS if name not in own)
    found = _recognised(tree, general)
    if found == "folder" and (inside := _find_wrapped(tree, general)):
        return inside
    if found:
        return found, tree
    examples = ", ".join(list(tree.files)[:3])
    raise Refusal(f"{tree.root} is in no layout that is known ({', '.join(LAYOUTS)}); its first files are {examples}")


def _is_in(name: str, tree: Tree) -> bool:
    return LAYOUTS[name].recognises(tree)


def _may_be_in(name: str, tree: Tree) -> bool:
    """As `_is_in`, of a folder of which nobody said that it is a dataset: a file in it that cannot be read is no reason to refuse."""
    with suppress(Refusal):
        return _is_in(name, tree)
    return False


def _recognised(tree: Tree, candidates: Sequence[str], recognises: Callable[[str, Tree], bool] = _is_in) -> str | None:
    names = [name for name in candidates if recognises(name, tree)]
    if len(names) > 1:
        raise Refusal(f"{tree.root} looks like {' and '.join(names)}; say which with --layout")
    return names[0] if names else None


def _find_inside(tree: Tree, candidates: Sequence[str]) -> tuple[str, Tree] | None:
    """The layout of the one folder, nearest to the root, in which a dataset's own tables lie."""
    for depth in range(1, DEEPEST + 1):
        found = {inner.root: (name, inner) for inner in tree.folders(depth) if (name := _recognised(inner, candidates, _may_be_in))}
        if len(found) > 1:
            several = ", ".join(f"{root} ({name})" for root, (name, _) in found.items())
            raise Refusal(f"{tree.root} holds several datasets: {several}; name one with --root")
        if found:
            ((name, inner),) = found.values()
            beside = len(tree.files) - len(inner.files)
            log.warning("%s is %s, and is packed; %d files beside it are not", inner.root, name, beside)
            return name, inner
    return None


def _find_wrapped(tree: Tree, candidates: Sequence[str]) -> tuple[str, Tree] | None:
    """The layout of the folder in which all images lie, where that is no class itself.

    Raises:
        Refusal: it holds class folders; or a class folder holds those of the classes again.
    """
    inner, folders = tree, _class_folders(tree)
    while len(folders) == 1 and "" not in folders:
        inner = inner.below(*folders)
        folders = _class_folders(inner)
        if (name := _recognised(inner, candidates)) not in (None, "folder"):
            log.warning("%s is packed, in which all images lie", inner.root)
            return name, inner
        if len(folders) > 1 and "" not in folders:
            raise Refusal(
                f"all images of {tree.root} lie in {inner.root}, whose folders may be the classes ({' '.join(sorted(folders)[:3])} ...): "
                f"say so with --root {inner.root}, or have one class with --layout folder"
            )
    for folder, inside in folders.items():
        if len(inside - {folder}) > 1 and inside <= folders.keys():
            raise Refusal(
                f"{inner.root}/{folder} holds folders of the classes again ({' '.join(sorted(inside)[:3])} ...): remove that copy, "
                "or have it as a class with --layout folder"
            )
    shared = sorted(set.intersection(*folders.values()) - {""}) if len(folders) > 1 else []
    if len(shared) > 1:
        log.warning(
            "the classes are %s ...; the folders in them have the same names: %s ...",
            *(" ".join(names[:3]) for names in (sorted(folders), shared)),
        )
    return None


def _class_folders(tree: Tree) -> dict[str, set[str]]:
    """Each folder that has images somewhere in it, and the folders in it that do; `""` stands for images in no folder."""
    folders: dict[str, set[str]] = {}
    for path in tree.images:
        first, *rest = path.split("/")[:-1] or [""]
        folders.setdefault(first, set()).add(rest[0] if rest else "")
    return folders


def named(name: str) -> str:
    """A layout's own name, from that or from an alias; auto stays as it is.

    Raises:
        Refusal: there is no such layout.
    """
    names = {"auto": "auto"} | {alias: own for own, layout in LAYOUTS.items() for alias in (own, *layout.aliases)}
    return names[choose(name, names, "layout")]


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
