"""Requests that cannot be carried out are refused in one readable line, before any worker starts.

A number that a user gives has its range in its annotation: `steps: Count = 100`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf, isfinite
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class Refusal(ValueError):
    """A request that cannot be carried out; the message names the bad value and the fix, without the credentials a URL may carry."""

    def __init__(self, message: str):
        super().__init__(public(message))


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, both included, but for `low` where `above` and for `high` where `below`."""

    low: float
    high: float = inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        excluded = (self.above and number == self.low) or (self.below and number == self.high)
        return isfinite(number) and self.low <= number <= self.high and not excluded

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low + (f" and {'below' if self.below else 'at most'} {self.high:g}" if isfinite(self.high) else "")


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Amount = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Level = Annotated[float, Range(0, 1, below=True)]
Share = Annotated[float, Range(0, 1, above=True)]


def check_numbers(job: Any) -> None:
    """Check every number of a job against the range in its field's annotation: `Count`, `Count | None` or `tuple[Positive, ...]`.

    Args:
        job: a dataclass whose fields are the flags of a command line.

    Raises:
        Refusal: naming the flag, the number and its range.
    """
    for name, annotation in get_type_hints(type(job), include_extras=True).items():
        allowed, value = _range_of(annotation), getattr(job, name)
        for number in value if isinstance(value, tuple) else (value,):
            if allowed and number is not None and number not in allowed:
                raise Refusal(f"--{name.replace('_', '-')} is {number}; it must be {allowed}")


def _range_of(annotation: Any) -> Range | None:
    """The range that an annotation, or one it is made of, carries; None where none does."""
    if get_origin(annotation) is Annotated:
        return next((mark for mark in get_args(annotation)[1:] if isinstance(mark, Range)), None)
    return next(filter(None, map(_range_of, get_args(annotation))), None)


def choose(name: str, names: Iterable[str], what: str, fix: str = "") -> str:
    """Return `name` if it is one of `names`, which are those of a `what`.

    Raises:
        Refusal: naming the close matches, or everything known where nothing is close, and another `fix` where there is one.
    """
    names = sorted(names)
    if name in names:
        return name
    close = get_close_matches(name, names, n=5, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names) or 'none'}"
    raise Refusal(f"unknown {what} {name!r}; {hint}{fix and f' ({fix})'}")


def counted(number: int, plural: str) -> str:
    """A number with what it counts, whose name is given in the plural: 1 image, 2 images, 1 class."""
    if number != 1:
        return f"{number} {plural}"
    return f"1 {plural.removesuffix('es' if plural.endswith('sses') else 's')}"


def public(text: str) -> str:
    """`text` fit to be shown, and the same in every run: UTF-8, without colours, addresses of memory and the secrets of URLs (user:password@
    and the query of a signed address)."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(text))
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text.encode("utf-8", "backslashreplace").decode())
    text = re.sub(r"://[^/\s@]+@", "://***@", text)
    text = re.sub(r"/[^/\s@:]+:[^/\s@]+@", "/***@", text)  # as some file systems repeat the path
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1?***", text)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one readable line, without the credentials that URLs may carry."""
    text = public(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
