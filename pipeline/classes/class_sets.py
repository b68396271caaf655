"""Named sets of classes, from a JSON file, for the target class_set:NAME."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.refusal import Refusal
from pipeline.sources.labels import Classes, resolve

FORM = '{name: [class numbers or names], ...}, or {name: {"synset": id}, ...}'


def read_class_sets(url: str, classes: Classes, is_a: str | None = None) -> dict[str, tuple[int, ...]]:
    """Name -> class numbers, from {name: [class numbers or names]} or {name: {"synset": id}}.

    A synset stands for all classes at or below it, the classes' names being WordNet ids and `is_a` a file of lines `parent child`.

    Raises:
        Refusal: the file has another form, names a class that the network has not, or has a set without a class.
    """
    content = storage.read_json(url, "class sets", FORM, _parse)
    children = _children(is_a) if is_a else {}
    return {name: _numbers(name, value, classes, children) for name, value in content.items()}


def _parse(content: Any) -> dict[str, list | dict]:
    if not all(isinstance(value, (list, dict)) for value in content.values()):
        raise TypeError
    return content


def _numbers(name: str, value: list | dict, classes: Classes, children: Mapping[str, set[str]]) -> tuple[int, ...]:
    if isinstance(value, dict):
        if not value.get("synset") or not children:
            raise Refusal(f"class set {name!r} is {json.dumps(value)[:60]}; write a list, or {{synset: id}} and give --is-a FILE")
        below = _below(value["synset"], children)
        numbers = [number for number, synset in enumerate(classes.names) if synset in below]
    else:
        numbers = []
        for member in value:
            number, _, problem = resolve(member if isinstance(member, int) else str(member), classes)
            if problem or number is None:
                assert problem, "a member is a number or a text"
                raise Refusal(f"class set {name!r}: {problem[1]}")
            numbers.append(number)
    if not numbers:
        raise Refusal(f"class set {name!r} holds none of the network's classes; name them as in --classes FILE")
    return tuple(sorted(set(numbers)))


def _children(url: str) -> dict[str, set[str]]:
    """Synset -> the synsets directly below it."""
    children: dict[str, set[str]] = {}
    try:
        lines = storage.read_bytes(url).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise Refusal(f"--is-a {url} cannot be read ({type(error).__name__}); give a text file of lines `parent child`") from error
    for line in lines:
        words = line.split()
        if len(words) == 2:
            children.setdefault(words[0], set()).add(words[1])
    return children


def _below(synset: str, children: Mapping[str, set[str]]) -> set[str]:
    """A synset and all below it."""
    below: set[str] = set()
    waiting = [synset]
    while waiting:
        synset = waiting.pop()
        if synset not in below:
            below.add(synset)
            waiting += children.get(synset, ())
    return below
