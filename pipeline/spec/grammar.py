"""How methods, targets and metrics are written: `opti_cam`, `class:7`, `f08=finer(gamma=0.8)`, `family:cam`, `opti_cam.steps=50`."""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from pipeline.families import TOGETHER, Parameter
from pipeline.refusal import Refusal, choose

ANALYSIS = "analysis"  # the family that `all` leaves out
_CHOICE = re.compile(r"(?:(?P<alias>[\w.-]+)=)?(?P<name>[A-Za-z_]\w*)(?::(?P<argument>[^()]*))?(?:\((?P<settings>.*)\))?$", re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """One method, target or metric of a job, with every setting it runs with.

    Attributes:
        alias: its name in the tables.
        name: its name in the registry.
        argument: the text behind the colon, or the content of the file that this text names.
        settings: names and values, sorted.
        explicit: whether the user named it, and not `all`, a family or a rule.
    """

    alias: str
    name: str
    argument: Any = None
    settings: tuple[tuple[str, Any], ...] = ()
    explicit: bool = True

    @property
    def args(self) -> dict[str, Any]:
        """The settings as keyword arguments."""
        return dict(self.settings)

    def identity(self, entry: Any) -> dict:
        """The part of an output's identity that stands for this choice of a registry's `entry`: never the alias, and of the settings that
        came later than the entry those that differ from their defaults, so that what was stored before them stays an answer."""
        usual = {name: parameter.default for name, parameter in entry.parameters.items() if parameter.later}
        settings = {name: value for name, value in self.settings if name not in usual or value != usual[name]}
        return {"name": self.name, "argument": self.argument, "settings": settings, "version": entry.version}

    @property
    def written(self) -> str:
        """The text that `parse` reads as this choice."""
        text = self.name if self.argument is None else f"{self.name}:{self.argument}"
        settings = ",".join(f"{key}={_text_of(value)}" for key, value in self.settings)
        return (f"{self.alias}=" if self.alias != text else "") + text + (f"({settings})" if settings else "")


def _text_of(value: Any) -> str:
    """The text that `read_value` reads as a setting's value: words stand without quotes."""
    return f"({','.join(map(str, value))})" if isinstance(value, (tuple, list)) else str(value)


def read_value(text: str, type: Any, where: str) -> Any:
    """Read `text` as `type`: int, float, bool, str, a Literal, a number in a Range, or a tuple of one of these written with commas.

    Raises:
        Refusal: naming the setting, `where`, and the values it may have.
    """
    if get_origin(type) is Annotated:
        plain, allowed = get_args(type)
        number = read_value(text, plain, where)
        if number not in allowed:
            raise Refusal(f"{where} is {text.strip()}; it must be {allowed}")
        return number
    if get_origin(type) is Literal:
        if text not in get_args(type):
            raise Refusal(f"{where} is {text!r}; it must be one of {', '.join(map(str, get_args(type)))}")
        return text
    if get_origin(type) is tuple:
        parts, item = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()], get_args(type)[0]
        if not parts and get_origin(item) is Annotated:
            raise Refusal(f"{where} is empty; it must have at least one number")
        return tuple(read_value(part, item, where) for part in parts)
    if type is str:
        return text
    try:
        value = ast.literal_eval(text.strip().capitalize() if type is bool else text.strip())
    except (ValueError, SyntaxError):
        value = None
    if type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, type) or isinstance(value, bool) is not (type is bool):
        raise Refusal(f"{where} is {text!r}; it must be {'an' if type is int else 'a'} {type.__name__}")
    return value


def _split(text: str) -> list[str]:
    """Split `a=1,b=(1,2)` at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text) if part.strip()]


def parse(text: str, registry: Mapping[str, Any], what: str) -> Choice:
    """Read one choice.

    `registry` maps names to entries with `parameters` and, for `name:argument`, `takes_argument`; `what` is their kind in refusals.
    """
    match = _CHOICE.match(text.strip())
    if not match:
        raise Refusal(f"cannot read {what} {text!r}; write a name, name(setting=value) or alias=name(setting=value)")
    own = "one of your own comes with --plugins FILE" if what in ("method", "metric") else ""
    name = choose(match["name"], registry, what, own)
    argument, entry = match["argument"], registry[name]
    needs = getattr(entry, "takes_argument", False)
    if needs and not argument:
        raise Refusal(f"{what} {name!r} needs what it is about: write {name}:{needs}")
    if argument is not None and not needs:
        raise Refusal(f"{what} {name!r} takes no argument; write {name} instead of {text!r}")
    choice = Choice(match["alias"] or (f"{name}:{argument}" if needs else name), name, argument)
    return _with_settings(choice, entry, _split(match["settings"] or ""), what)


def _with_settings(choice: Choice, entry: Any, items: Iterable[str], what: str) -> Choice:
    """A preset is a word for several settings: the choice then has them, and a setting written beside it is stronger."""
    values, presets = {}, getattr(entry, "presets", {})
    parameters = {**entry.parameters, "preset": Parameter(Literal[tuple(presets)], None)} if presets else entry.parameters
    for item in items:
        key, equals, text = (part.strip() for part in item.partition("="))
        if not equals:
            raise Refusal(f"cannot read {item!r} for {what} {choice.alias!r}; write setting=value")
        choose(key, parameters, f"setting of {what} {choice.name!r}")
        values[key] = read_value(text, parameters[key].type, f"{choice.alias}.{key}")
    settings = choice.args or {key: parameter.default for key, parameter in entry.parameters.items()}
    settings |= presets.get(values.pop("preset", None), {}) | values
    return replace(choice, settings=tuple(sorted(settings.items())))


def parse_all(texts: Iterable[str], registry: Mapping[str, Any], what: str, settings: Iterable[str] = ()) -> tuple[Choice, ...]:
    """Every choice of a list, with `all` and `family:NAME` expanded and `NAME.setting=value` applied.

    Raises:
        Refusal: for an unknown name or setting, a bad value, or two different choices under one alias.
    """
    choices: dict[str, Choice] = {}
    for text in texts:
        for choice in _expand(text, registry, what):
            earlier = choices.get(choice.alias)
            same = earlier and (earlier.name, earlier.argument, earlier.settings) == (choice.name, choice.argument, choice.settings)
            if earlier and not same and earlier.explicit and choice.explicit:
                raise Refusal(f"two {what}s are named {choice.alias!r}; give one an alias: other={choice.name}(...)")
            if not earlier or choice.explicit:
                choices[choice.alias] = choice
    settings_of: dict[str, list[str]] = {}
    for item in settings:
        key, dot, rest = item.partition(".")
        if not dot or "=" not in rest:
            raise Refusal(f"cannot read {item!r}; write {what}.setting=value")
        matches = [r for r in choices.values() if key in (r.alias, r.name)]
        if not matches:
            raise Refusal(f"{item!r} sets a {what} that is not asked for; asked for: {', '.join(choices) or 'none'}")
        for choice in matches:
            settings_of.setdefault(choice.alias, []).append(rest)
    return tuple(_with_settings(choice, registry[choice.name], settings_of.get(alias, ()), what) for alias, choice in choices.items())


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
    """A registry for `--help`: a line per family, of entries with their settings and the words that a setting knows, the default first; and
    the entries that `all` leaves out."""
    families = _families(registry)
    lines = []
    for family in sorted(families) or [""]:
        entries = (_line_of(name, entry) for name, entry in sorted(registry.items()) if getattr(entry, "family", "") == family)
        lines.append((f"family:{family} " if family else "") + "; ".join(entries))
    dear = [name for name, entry in sorted(registry.items()) if _dear(entry)]
    left_out = [f"family:{ANALYSIS}"] * (ANALYSIS in families) + dear
    return "\n\n".join(lines + ["computed only where they are named: " + ", ".join(left_out)] * bool(left_out))


def _line_of(name: str, entry: Any) -> str:
    settings = [f"{key}={_words_of(parameter)}" for key, parameter in entry.parameters.items()]
    presets = "|".join(getattr(entry, "presets", {}))
    text = ", ".join([*settings, *([f"preset={presets}"] if presets else [])])
    argument = f":{entry.takes_argument}" if getattr(entry, "takes_argument", False) else ""
    return f"{name}{argument}" + (f" ({text})" if text else "")


def _families(registry: Mapping[str, Any]) -> set[str]:
    return {getattr(entry, "family", "") for entry in registry.values()} - {""}


def _dear(entry: Any) -> bool:
    """Whether no family brings it."""
    return getattr(entry, "remaps", False)


def _words_of(parameter: Parameter) -> str:
    words = get_args(parameter.type) if get_origin(parameter.type) is Literal else ()
    return "|".join([str(parameter.default), *(word for word in words if word != parameter.default)])


__all__ = ["Choice", "describe_registry", "parse", "parse_all", "read_value"]
