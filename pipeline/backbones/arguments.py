"""Arguments of a command line as typed values."""

from pipeline.refusal import Refusal

WORDS = {"true": True, "false": False, "none": None}


def typed(value: object) -> object:
    """Text as int, float, bool, None or a tuple of these (`0.5,0.5,0.5`); any other text or value as it is."""
    if not isinstance(value, str):
        return value
    if "," in value:
        return tuple(typed(part.strip()) for part in value.split(",") if part.strip())
    if value.lower() in WORDS:
        return WORDS[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def key_value(item: str, flag: str) -> tuple[str, str]:
    """KEY=VALUE, an item of `flag`, in two."""
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise Refusal(f"cannot read {flag} {item!r}; write KEY=VALUE")
    return key, text
