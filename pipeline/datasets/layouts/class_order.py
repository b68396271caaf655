"""The order of classes that are known by their names alone."""

import logging
from collections.abc import Collection

from pipeline.datasets.layouts.tree import Tree
from pipeline.refusal import Refusal
from pipeline.sources.labels import are_numbers, in_number_order

log = logging.getLogger(__name__)
LISTED = "classes.txt"


def ordered(names: Collection[str], tree: Tree) -> tuple[str, ...]:
    """Classes in the order of the root's classes.txt where it lists them all; else numbers as numbers, and other names as texts."""
    if not names:
        return ()
    listed = _listed(tree)
    if listed and {*names} <= {*listed}:
        return listed
    if listed is not None:
        log.warning("%s/%s is not heeded: it does not list every class once", tree.root, LISTED)
    by_text = tuple(sorted({*names}))
    by_number = in_number_order(by_text)
    if not by_number:
        return by_text
    first = next(i for i, name in enumerate(by_number) if name != by_text[i])
    if are_numbers(by_text):
        log.warning("the classes are numbers: %r is class %d, and not %r as in the order of texts", by_number[first], first, by_text[first])
        return by_number
    log.warning("the classes are in the order of texts, %r before %r; a %s gives another", by_text[first], by_number[first], LISTED)
    return by_text


def _listed(tree: Tree) -> tuple[str, ...] | None:
    """The names that classes.txt lists; none of them where it is no list of different names, None where there is no such file."""
    if LISTED not in tree:
        return None
    try:
        names = tuple(line.strip() for _, line in tree.lines(LISTED))
    except Refusal:
        return ()
    return names if len({*names}) == len(names) else ()
