"""The names of classes, in class order."""

from collections.abc import Sequence


def difference(a: Sequence[str], b: Sequence[str]) -> str:
    """The first difference of two lists of class names, in words."""
    if len(a) != len(b):
        return f"{len(a)} class names, not {len(b)}"
    first = next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
    return f"class {first} is {a[first]!r}, not {b[first]!r}"
