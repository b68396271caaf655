"""Named sets of classes, from a JSON file: what the target class_set:NAME explains together."""

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
        Refusal: for a file that is none of this, a class that the network has not, or a set without a class.
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
        found = [number for number, known in enumerate(classes.names) if known in below]
    else:
        found = []
        for member in value:
            number, _, problem = resolve(member if isinstance(member, int) else str(member), classes)
            if problem:
                raise Refusal(f"class set {name!r}: {problem[1]}")
            found.append(number)
    if not found:
        raise Refusal(f"class set {name!r} holds none of the network's classes; name them as in --classes FILE")
    return tuple(sorted(set(found)))


def _children(url: str) -> dict[str, set[str]]:
    """Synset -> those directly below it."""
    found: dict[str, set[str]] = {}
    try:
        lines = storage.read_bytes(url).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise Refusal(f"--is-a {url} cannot be read ({type(error).__name__}); give a text file of lines `parent child`") from error
    for line in lines:
        words = line.split()
        if len(words) == 2:
            found.setdefault(words[0], set()).add(words[1])
    return found


def _below(synset: str, children: Mapping[str, set[str]]) -> set[str]:
    found, asked = set(), [synset]
    while asked:
        each = asked.pop()
        if each not in found:
            found.add(each)
            asked += children.get(each, ())
    return found
