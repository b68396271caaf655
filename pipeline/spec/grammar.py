"""What a user names on the command line: `opti_cam`, `class:7`, `f08=finer(gamma=0.8)`, `family:cam`, `opti_cam.steps=50`."""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from pipeline.families import TOGETHER, Parameter
from pipeline.refusal import Refusal, choose

ANALYSIS = "analysis"  # the family that `all` leaves out
_WRITTEN = re.compile(r"(?:(?P<alias>[\w.-]+)=)?(?P<name>[A-Za-z_]\w*)(?::(?P<argument>[^()]*))?(?:\((?P<settings>.*)\))?$", re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """One method, target or metric as asked for: the name it has in the tables, what it is, and every setting it runs with."""

    alias: str
    name: str
    argument: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    explicit: bool = True

    @property
    def args(self) -> dict[str, Any]:
        """The settings as keyword arguments."""
        return dict(self.settings)

    def identity(self, version: int) -> dict:
        """What decides the values: never the alias."""
        return {"name": self.name, "argument": self.argument, "settings": self.args, "version": version}

    @property
    def written(self) -> str:
        """The request as `parse` reads it."""
        asked = self.name if self.argument is None else f"{self.name}:{self.argument}"
        settings = ",".join(f"{key}={_written(value)}" for key, value in self.settings)
        return (f"{self.alias}=" if self.alias != asked else "") + asked + (f"({settings})" if settings else "")


def _written(value: Any) -> str:
    """A setting's value as `value` reads it: words stand without quotes."""
    return f"({','.join(map(str, value))})" if isinstance(value, (tuple, list)) else str(value)


def read_value(text: str, type: Any, where: str) -> Any:
    """Read `text` as `type`: int, float, bool, str, a Literal, a number in a Range, or a tuple of one of these written with commas.

    Raises:
        Refusal: naming `where` the value was given and what it must be.
    """
    if get_origin(type) is Annotated:
        plain, allowed = get_args(type)
        read = read_value(text, plain, where)
        if read not in allowed:
            raise Refusal(f"{where} is {text.strip()}; it must be {allowed}")
        return read
    if get_origin(type) is Literal:
        if text not in get_args(type):
            raise Refusal(f"{where} is {text!r}; it must be one of {', '.join(map(str, get_args(type)))}")
        return text
    if get_origin(type) is tuple:
        parts, each = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()], get_args(type)[0]
        if not parts and get_origin(each) is Annotated:
            raise Refusal(f"{where} is empty; it must have at least one number")
        return tuple(read_value(part, each, where) for part in parts)
    if type is str:
        return text
    try:
        read = ast.literal_eval(text.strip().capitalize() if type is bool else text.strip())
    except (ValueError, SyntaxError):
        read = None
    if type is float and isinstance(read, int) and not isinstance(read, bool):
        read = float(read)
    if not isinstance(read, type) or isinstance(read, bool) is not (type is bool):
        raise Refusal(f"{where} is {text!r}; it must be {'an' if type is int else 'a'} {type.__name__}")
    return read


def _split(text: str) -> list[str]:
    """Split `a=1,b=(1,2)` at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text) if part.strip()]


def parse(written: str, registry: Mapping[str, Any], what: str) -> Choice:
    """One request as written; `registry` maps names to entries with `parameters` and, for `name:argument`, `takes_argument`."""
    match = _WRITTEN.match(written.strip())
    if not match:
        raise Refusal(f"cannot read {what} {written!r}; write a name, name(setting=value) or alias=name(setting=value)")
    name = choose(match["name"], registry, what)
    argument, entry = match["argument"], registry[name]
    needs = getattr(entry, "takes_argument", False)
    if needs and not argument:
        raise Refusal(f"{what} {name!r} needs what it is about: write {name}:{needs}")
    if argument is not None and not needs:
        raise Refusal(f"{what} {name!r} takes no argument; write {name} instead of {written!r}")
    request = Choice(match["alias"] or (f"{name}:{argument}" if needs else name), name, argument)
    return _with_settings(request, entry, _split(match["settings"] or ""), what)


def _with_settings(request: Choice, entry: Any, written: Iterable[str], what: str) -> Choice:
    """A preset is a word for several settings: they are what the request then has, and what is written beside it is stronger."""
    given, presets = {}, getattr(entry, "presets", {})
    known = {**entry.parameters, "preset": Parameter(Literal[tuple(presets)], None)} if presets else entry.parameters
    for item in written:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            raise Refusal(f"cannot read {item!r} for {what} {request.alias!r}; write setting=value")
        choose(key, known, f"setting of {what} {request.name!r}")
        given[key] = read_value(text, known[key].type, f"{request.alias}.{key}")
    settings = request.args or {key: parameter.default for key, parameter in entry.parameters.items()}
    settings |= presets.get(given.pop("preset", None), {}) | given
    return replace(request, settings=tuple(sorted(settings.items())))


def parse_all(written: Iterable[str], registry: Mapping[str, Any], what: str, settings: Iterable[str] = ()) -> tuple[Choice, ...]:
    """Every request of a list, with `all` and `family:NAME` expanded and `NAME.setting=value` applied.

    Raises:
        Refusal: for an unknown name or setting, a bad value, or two different requests under one name.
    """
    found: dict[str, Choice] = {}
    for text in written:
        for request in _expand(text, registry, what):
            earlier = found.get(request.alias)
            same = earlier and (earlier.name, earlier.argument, earlier.settings) == (request.name, request.argument, request.settings)
            if earlier and not same and earlier.explicit and request.explicit:
                raise Refusal(f"two {what}s are named {request.alias!r}; give one an alias: other={request.name}(...)")
            if not earlier or request.explicit:
                found[request.alias] = request
    later: dict[str, list[str]] = {}
    for item in settings:
        key, dot, rest = item.partition(".")
        if not dot or "=" not in rest:
            raise Refusal(f"cannot read {item!r}; write {what}.setting=value")
        chosen = [r for r in found.values() if key in (r.alias, r.name)]
        if not chosen:
            raise Refusal(f"{item!r} sets a {what} that is not asked for; asked for: {', '.join(found) or 'none'}")
        for request in chosen:
            later.setdefault(request.alias, []).append(rest)
    return tuple(_with_settings(request, registry[request.name], later.get(alias, ()), what) for alias, request in found.items())


def _expand(text: str, registry: Mapping[str, Any], what: str) -> list[Choice]:
    families = _families(registry)
    if text in TOGETHER and registry.keys() >= set(TOGETHER[text]):
        return [parse(name, registry, what) for name in TOGETHER[text]]
    if text == "all":
        names = [name for name, entry in registry.items() if getattr(entry, "family", None) != ANALYSIS]
    elif text.startswith("family:"):
        family = choose(text.removeprefix("family:"), families, f"{what} family")
        names = [name for name, entry in registry.items() if entry.family == family]
    else:
        return [parse(text, registry, what)]
    names = [name for name in names if not _dear(registry[name])]
    return [replace(parse(name, registry, what), explicit=False) for name in sorted(names)]


def describe_registry(registry: Mapping[str, Any]) -> str:
    """One line per family, of entries with their settings and defaults, and the words that a setting knows, the default first; and what
    `all` leaves out. For `--help`."""
    families = _families(registry)
    lines = []
    for family in sorted(families) or [None]:
        entries = (_described(name, entry) for name, entry in sorted(registry.items()) if getattr(entry, "family", None) == family)
        lines.append((f"family:{family} " if family else "") + "; ".join(entries))
    dear = [name for name, entry in sorted(registry.items()) if _dear(entry)]
    left_out = [f"family:{ANALYSIS}"] * (ANALYSIS in families) + dear
    return "\n\n".join(lines + ["computed only where they are named: " + ", ".join(left_out)] * bool(left_out))


def _described(name: str, entry: Any) -> str:
    each = [f"{key}={_known(parameter)}" for key, parameter in entry.parameters.items()]
    presets = "|".join(getattr(entry, "presets", {}))
    settings = ", ".join([*each, *([f"preset={presets}"] if presets else [])])
    argument = f":{entry.takes_argument}" if getattr(entry, "takes_argument", False) else ""
    return f"{name}{argument}" + (f" ({settings})" if settings else "")


def _families(registry: Mapping[str, Any]) -> set[str]:
    return {getattr(entry, "family", None) for entry in registry.values()} - {None}


def _dear(entry: Any) -> bool:
    """Whether no family brings it."""
    return getattr(entry, "remaps", False)


def _known(parameter: Parameter) -> str:
    words = get_args(parameter.type) if get_origin(parameter.type) is Literal else ()
    return "|".join([str(parameter.default), *(word for word in words if word != parameter.default)])


__all__ = ["Choice", "describe_registry", "parse", "parse_all", "read_value"]
