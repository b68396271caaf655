"""Fill in the generated parts of docs/reference/*.md from the registries; the prose around them is written by hand.

python -m docs.reference.build

A part stands between `<!-- part NAME -->` and `<!-- end -->`; `parts` says which there are.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
import tyro

from docs.reference.columns import COLUMNS, ROWS
from jobs.__main__ import FILES
from jobs.compare import Compare
from jobs.demo import Demo
from jobs.gc import Gc
from jobs.nightly import Nightly
from jobs.plan import Plan
from jobs.publish import Publish
from jobs.reduce import Reduce
from jobs.score import Score
from jobs.sql import Sql
from jobs.status import Status
from pipeline.datasets.layouts import LAYOUTS
from pipeline.datasets.packing import Pack
from pipeline.families import Range
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.reduce.analyses import ANALYSES
from pipeline.report.job import Report
from pipeline.spec.job import Job
from pipeline.tables import schema
from pipeline.tables.queries import QUERIES
from pipeline.tables.sql import FUNCTIONS
from pipeline.targets import TARGETS
from pipeline.train.job import Training
from pipeline.train.probe.job import ProbeJob

FOLDER = Path(__file__).parent
MARK = re.compile(r"(<!-- part (.+?) -->\n).*?(<!-- end -->\n)", re.DOTALL)
COMMANDS = {
    "compare": Compare,
    "demo": Demo,
    "explain": Job,
    "gc": Gc,
    "nightly": Nightly,
    "pack": Pack,
    "plan": Plan,
    "probe": ProbeJob,
    "publish": Publish,
    "reduce": Reduce,
    "report": Report,
    "score": Score,
    "sql": Sql,
    "status": Status,
    "train": Training,
}
SCHEMAS = {
    "images": schema.IMAGES,
    "features": schema.features(-1),
    "predictions": schema.predictions(0),
    "maps": schema.MAPS,
    "attributes": schema.ATTRIBUTES,
    "metrics": schema.metrics([]),
    "partials": schema.PARTIALS,
    "summary": schema.SUMMARY,
    "curves": schema.CURVES,
    **schema.ANALYSES,
    "errors": schema.ERRORS,
    "drift": schema.DRIFT,
    "moved": schema.MOVED,
    "nights": schema.NIGHTS,
}
Traits = Callable[[Any], Iterable[str]]
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def parts() -> dict[str, str]:
    """Every generated part by its name, as Markdown: an index of each registry, and its entries, those of a family together."""
    methods, metrics = _by_family(METHODS), _by_family(METRICS)
    blocks = {"methods": _index(methods), "metrics": _index(metrics)}
    blocks |= {f"methods {family}": _entries(entries, _method) for family, entries in methods.items()}
    blocks |= {f"metrics {family}": _entries(entries, _metric) for family, entries in metrics.items()}
    blocks["targets"] = _index({"target": TARGETS})
    blocks |= {f"target {name}": _entry(name, entry, (), _target) for name, entry in TARGETS.items()}
    blocks |= {f"table {name}": _table_of(name) for name in SCHEMAS}
    blocks["layouts"] = _table(("layout", "dataset"), ((f"[`{name}`](#{name})", file_doc(layout)[0]) for name, layout in LAYOUTS.items()))
    blocks |= {f"layout {name}": _layout(name, layout) for name, layout in LAYOUTS.items()}
    rows = (
        (f"`{query.name}`", query.question, " ".join(f"`{k}={s.default}`" for k, s in query.settings.items())) for query in QUERIES.values()
    )
    blocks["queries"] = _table(("query", "answers", "settings"), rows)
    blocks["functions"] = " ".join(f"`{signature}`" for signature in FUNCTIONS)
    blocks["jobs"] = _table(("job", "task"), ((f"[`atlas {name}`](#atlas-{name})", _module_doc(name)[0]) for name in FILES))
    return blocks | {f"job {name}": _job(name) for name in FILES}


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """A page with its parts filled in anew.

    Raises:
        KeyError: where the page names a part that does not exist.
    """
    return MARK.sub(lambda mark: f"{mark[1]}\n{blocks[mark[2]]}\n\n{mark[3]}", text)


def part_names(text: str) -> list[str]:
    """The names of a page's parts."""
    return [mark[2] for mark in MARK.finditer(text)]


def _by_family(registry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The package's own entries: an installed plugin is not documented here."""
    own = {name: entry for name, entry in sorted(registry.items()) if _function(entry).__module__.startswith("pipeline.")}
    return {family: {n: e for n, e in own.items() if e.family == family} for family in sorted({entry.family for entry in own.values()})}


def _index(families: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ((f"`{family}`", " ".join(f"[`{name}`](#{name})" for name in entries)) for family, entries in families.items())
    return _table(("family", "names"), rows) if len(families) > 1 else "\n".join(f"{names}" for _, names in rows)


def _entries(entries: Mapping[str, Any], traits: Traits) -> str:
    return "\n\n".join(_entry(name, entry, file_doc(entry), traits) for name, entry in entries.items())


def _entry(name: str, entry: Any, about: Iterable[str], traits: Traits) -> str:
    """Heading, docstrings of the file (`about`) and of the function, traits, columns, settings."""
    blocks = [f"### `{name}`", *about, *_paragraphs(_function(entry)), f"*{'; '.join(traits(entry))}.*", *_columns(entry)]
    return "\n\n".join([*blocks, *_settings(entry)])


def _settings(entry: Any) -> Iterator[str]:
    if entry and entry.parameters:
        rows = ((f"`{key}`", _type(setting.type), f"`{_value(setting.default)}`") for key, setting in entry.parameters.items())
        yield _table(("setting", "values", "default"), rows)


def _columns(entry: Any) -> Iterator[str]:
    """A metric's columns, those together of which the same way is better."""
    columns = getattr(entry, "columns", {})
    for better, words in (("higher", "Higher is better"), ("lower", "Lower is better"), (None, "Neither way is better")):
        names = [column for column, way in columns.items() if way == better]
        if names:
            yield f"{words}: {' '.join(f'`{name}`' for name in names)}"


def _method(entry: Any) -> Iterator[str]:
    yield f"Version {entry.version}"
    if entry.class_free:
        yield "no class enters, so that the target is `none`"
    if entry.seeded:
        yield "drawn from the run's seed"
    yield f"asks for {_names(entry.inputs)}"
    yield f"rendered `{entry.render({key: setting.default for key, setting in entry.parameters.items()})}`"
    for word, values in getattr(entry, "presets", {}).items():
        yield f"`preset={word}` sets {', '.join(f'`{key}={value}`' for key, value in sorted(values.items()))}"


def _metric(entry: Any) -> Iterator[str]:
    yield f"Version {entry.version}"
    yield "of each pair of classes" if entry.of_pairs else "of the dataset" if entry.corpus_level else "of each map"
    if entry.binary:
        yield "0 or 1" if entry.binary == set(entry.columns) else f"0 or 1 in {len(entry.binary)} of {len(entry.columns)} columns"
    if entry.curves:
        yield "the mean curve goes to `curves`"
    if not entry.constant:
        yield "null for a constant map"
    if entry.needs_network:
        yield "asks the network about the image"
    if entry.seeded:
        yield "drawn from the run's seed"
    if entry.remaps or entry.family == "analysis":
        yield "computed only where it is named"
    yield f"asks for {_names(entry.inputs)}"


def _target(entry: Any) -> Iterator[str]:
    argument = f":{entry.takes_argument}" if entry.takes_argument else ""
    yield f"Written `{entry.name}{argument}`"
    yield f"version {entry.version}"
    if entry.needs_label:
        yield "needs a label"
    if entry.texts:
        yield "needs an open_clip network"
    if entry.compared:
        yield "its maps are compared with each other, so metrics of single maps leave them out"


def _analysis(entry: Any) -> Iterator[str]:
    yield f"Version {entry.version}"
    yield {"class": "a file for some classes", "method": "a file a method", "run": "one file"}[entry.unit]
    yield f"reads {_names(entry.reads)}"


def _layout(name: str, layout: Any) -> str:
    traits = [f"also named {_names(layout.aliases)}"] if layout.aliases else []
    if layout.levels:
        traits.append(f"`--level` {' or '.join(f'`{level}`' for level in layout.levels)}, the first by default")
    if layout.levels is None:
        traits.append("`--level` names one of several")
    if layout.last:
        traits.append("recognised only where no other layout is")
    line = "; ".join(traits)
    return "\n\n".join([f"### `{name}`", *file_doc(layout), *([f"*{line[0].upper()}{line[1:]}.*"] if line else [])])


def _table_of(name: str) -> str:
    rows = ((f"`{field.name}`", _arrow(field.type), COLUMNS.get(f"{name}.{field.name}") or COLUMNS[field.name]) for field in SCHEMAS[name])
    folder = f" Its files lie in folders `{schema.PARTITIONED[name]}=NAME/`." if name in schema.PARTITIONED else ""
    blocks = [f"### `{name}`", f"{ROWS[name]}{folder}"]
    if name in ANALYSES:
        blocks += [*_paragraphs(ANALYSES[name].function), f"*{'; '.join(_analysis(ANALYSES[name]))}.*"]
    return "\n\n".join([*blocks, _table(("column", "type", "meaning"), rows), *_settings(ANALYSES.get(name))])


def _arrow(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {_arrow(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "struct of " + ", ".join(f"`{field.name}` {_arrow(field.type)}" for field in kind)
    return (
        f"map of {kind.key_type} to {kind.item_type}"
        if pa.types.is_map(kind)
        else {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    )


def _job(name: str) -> str:
    command, (_, *example) = COMMANDS[name], _module_doc(name)
    blocks = [f"### atlas {name}", _paragraphs(command)[0], *(f"```text\n{block}\n```" for block in example)]
    meanings = _meanings(command)  # of its own fields: a job that takes every flag of another says so in its docstring
    rows = ((_flag(field), _type(field.type), _default(field), meanings[field.name]) for field in fields(command) if field.name in meanings)
    return "\n\n".join([*blocks, _table(("flag", "values", "default", "meaning"), rows)])


def _module_doc(name: str) -> list[str]:
    return ast.get_docstring(ast.parse(FILES[name].read_text())).split("\n\n")


def _meanings(command: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    body = ast.parse(inspect.getsource(command)).body[0].body
    pairs = zip(body, body[1:], strict=False)
    return {field.target.id: " ".join(doc.value.value.split()) for field, doc in pairs if isinstance(field, ast.AnnAssign)}


def _flag(field: Field) -> str:
    if tyro.conf.Positional in get_args(field.type):
        return field.name.upper()
    return f"`--{field.name.rstrip('_').replace('_', '-')}`"


def _default(field: Field) -> str:
    if field.default is MISSING:
        return "required"
    if field.name == "cache":
        return "`$XDG_CACHE_HOME/saliency-atlas`"  # its value holds a path of this machine
    words = field.default if isinstance(field.default, tuple) else (field.default,)
    return " ".join(f"`{_value(word)}`" for word in words if word not in (None, ""))


def _function(entry: Any) -> Any:
    """The first function that an entry of a registry holds; its file is the entry's."""
    return next(value for value in vars(entry).values() if inspect.isfunction(value))


def file_doc(entry: Any) -> list[str]:
    return _paragraphs(sys.modules[_function(entry).__module__])


def _paragraphs(thing: Any) -> list[str]:
    """A docstring's paragraphs, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(thing) or "").split("\n\n") if paragraph]


def _type(annotation: Any) -> str:
    """What may be written for a setting or a flag, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0]) + (f", {arguments[1]}" if isinstance(arguments[1], Range) else "")
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    return f"list of {_type(arguments[0])}" if origin is tuple else WORDS[annotation]


def _value(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, tuple):
        return f"({','.join(map(str, value))})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[*head], ["---"] * len([*head]), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write every page anew."""
    blocks = parts()
    for page in sorted(FOLDER.glob("*.md")):
        page.write_text(fill(page.read_text(), blocks))


if __name__ == "__main__":
    main()
