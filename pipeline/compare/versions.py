"""The settings and versions in which the manifests of two runs differ."""

import re
from collections.abc import Iterator, Mapping

DECIDING = ("layer", "seed", "activation", "precision", "select", "limit", "sample")  # fields of the job, beside those below
DESCRIBED = ("backbone", "methods", "targets", "metrics", "versions")


def compare_versions(now: Mapping, before: Mapping) -> list[dict]:
    """Rows of `drift`, one for each fact of the manifests that is not the same: `torch` with the detail `2.11.0 -> 2.12.0`."""
    facts_before, facts_now = dict(_facts(before)), dict(_facts(now))
    names = [name for name in facts_before | facts_now if facts_before.get(name) != facts_now.get(name)]
    details = {name: " -> ".join(_brief(facts.get(name, "none")) for facts in (facts_before, facts_now)) for name in names}
    return [{"kind": "versions", "scope": "all", "quantity": name, "detail": detail} for name, detail in details.items()]


def _brief(value: object) -> str:
    """A value in words; of a hash its beginning."""
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def _facts(manifest: Mapping) -> Iterator[tuple[str, object]]:
    yield from ((name, manifest["job"].get(name)) for name in DECIDING)
    for part in DESCRIBED:
        yield from _flat(part, manifest.get(part))


def _flat(path: str, value: object) -> Iterator[tuple[str, object]]:
    """The values within nested dicts and lists by their path; an entry of a list by its `name`, where it has one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        for item in value:
            yield f"{path}.{item['name']}", "present"
            yield from ((name, inner) for key in item if key != "name" for name, inner in _flat(f"{path}.{item['name']}.{key}", item[key]))
    else:
        yield path, value
