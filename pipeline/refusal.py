"""What makes a job pointless is refused in one readable line, before any worker starts."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


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


def public(text: str) -> str:
    """`text` fit to be shown: UTF-8, without the secrets of URLs (user:password@ and the query of a signed address)."""
    text = str(text).encode("utf-8", "backslashreplace").decode()
    text = re.sub(r"://[^/\s@]+@", "://***@", text)
    text = re.sub(r"/[^/\s@:]+:[^/\s@]+@", "/***@", text)  # as some file systems repeat the path
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1?***", text)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one readable line, without the credentials that URLs may carry."""
    text = public(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
