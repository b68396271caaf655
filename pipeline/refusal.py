"""What makes a job pointless is refused in one readable line, before any worker starts."""

from collections.abc import Iterable
from difflib import get_close_matches

from pipeline.storage import public


class Refusal(ValueError):
    """A request that cannot be carried out; the message names the bad value and the fix, without the credentials a URL may carry."""

    def __init__(self, message: str):
        super().__init__(public(message))


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return `name` if it is one of `known`.

    Raises:
        Refusal: naming the close matches, or everything known where nothing is close.
    """
    known = sorted(known)
    if name in known:
        return name
    close = get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known) or 'none'}"
    raise Refusal(f"unknown {what} {name!r}; {hint}")
