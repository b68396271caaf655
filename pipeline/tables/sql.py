"""Published runs as a DuckDB connection: a view for each table, functions of maps, and one line for a wrong query.

m is a row of `maps`, box a struct of x0, y0, x1, y1; all places are fractions of the image from its upper left corner.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from pipeline import storage
from pipeline.refusal import Refusal, one_line
from pipeline.tables import files, schema

if TYPE_CHECKING:
    import duckdb

# The part of the image that a map's grid lies over (top, left, bottom, right), which `render` says where it is not all of it.
_PART = "if(len(n) = 6, [n[1] / n[5], n[2] / n[6], n[3] / n[5], n[4] / n[6]], [0.0, 0.0, 1.0, 1.0])"
_NUMBERS = "list_transform(regexp_extract_all(m.render, '[0-9]+'), lambda digits: digits::DOUBLE)"
# Cell i is in row i // w and column i % w. What lies beyond the part belongs to the nearest cell, as it is drawn.
_EDGE = "if({i} <= 0, 0.0, if({i} >= {n}, 1.0, part[{start}] + {i} / {n} * (part[{start} + 2] - part[{start}])))"
_LEFT, _RIGHT = (_EDGE.format(i=f"(i % m.width + {end})", n="m.width", start=2) for end in (0, 1))
_TOP, _BOTTOM = (_EDGE.format(i=f"(i // m.width + {end})", n="m.height", start=1) for end in (0, 1))
_AREAS = f"""list_transform(range(m.height::BIGINT * m.width), lambda i:
    greatest(0, least(x1, {_RIGHT}) - greatest(x0, {_LEFT})) * greatest(0, least(y1, {_BOTTOM}) - greatest(y0, {_TOP})))"""
_PLACE = "greatest(least(floor(({at} - part[{start}]) / (part[{start} + 2] - part[{start}]) * {n}), {n} - 1), 0)::BIGINT"
_ROW, _COLUMN = _PLACE.format(at="y", n="m.height", start=1), _PLACE.format(at="x", n="m.width", start=2)
_POSITIVE = "list_transform(map_floats(m), lambda value: greatest(value, 0.0))"
# The interval of a share of k of n at 95 % (Wilson 1927): closed, and of all but extreme shares near that of the summary.
_Z = 1.959963984540054
_WILSON = (
    f"if(n > 0, {{low: greatest(0.0, (k + {_Z**2 / 2} - {_Z} * sqrt(k * (n - k) / n + {_Z**2 / 4})) / (n + {_Z**2})), "
    f"high: least(1.0, (k + {_Z**2 / 2} + {_Z} * sqrt(k * (n - k) / n + {_Z**2 / 4})) / (n + {_Z**2}))}}, NULL)"
)
_MACROS = {  # each knows those before it
    "map_floats(m)": "list_transform(m.map, lambda level: m.map_min + level / 255.0 * (m.map_max - m.map_min))",
    "_part(n)": _PART,
    "_map_part(m)": f"_part({_NUMBERS})",
    "_map_areas(m, x0, y0, x1, y1, part)": _AREAS,
    "_map_at(m, x, y, part)": f"map_floats(m)[{_ROW} * m.width + {_COLUMN} + 1]",
    "_map_mean(m, areas)": "list_dot_product(map_floats(m), areas) / nullif(list_sum(areas), 0)",
    "map_at(m, x, y)": "_map_at(m, x, y, _map_part(m))",
    "map_mean_in(m, box)": "_map_mean(m, _map_areas(m, box.x0, box.y0, box.x1, box.y1, _map_part(m)))",
    "share_interval(k, n)": _WILSON,
    "map_share_in(m, box)": f"""list_dot_product({_POSITIVE}, _map_areas(m, box.x0, box.y0, box.x1, box.y1, _map_part(m)))
        / nullif(list_dot_product({_POSITIVE}, _map_areas(m, 0, 0, 1, 1, _map_part(m))), 0)""",
}
FUNCTIONS = tuple(signature for signature in _MACROS if not signature.startswith("_"))
# Columns that runs of earlier versions lack: they are null there, so that one question fits every run.
_CONTROLS = {f"{control}{end}": "DOUBLE" for control in ("random", "fake_cam") for end in ("", "_low", "_high")}
_LATER = {"summary": {**_CONTROLS, "reasons": "MAP(VARCHAR, VARCHAR)"}, "curves": {"ci_low": "DOUBLE", "ci_high": "DOUBLE", **_CONTROLS}}


def _with_later(table: str) -> str:
    nulls = ", ".join(f"NULL::{kind} AS {name}" for name, kind in _LATER[table].items())
    return f"FROM {{{table}}} UNION ALL BY NAME SELECT {nulls} WHERE false"


_NAMED = "SELECT t.*, c.class_name FROM ({rows}) t LEFT JOIN {{classes}} c ON {key} = c.class_id"
# Views that are more than their table's files: name -> (tables it needs, query).
_DERIVED = {
    "curves": (("curves",), _with_later("curves")),
    "summary": (("images", "summary"), _NAMED.format(rows=_with_later("summary"), key="try_cast(t.scope AS INT)")),
    **{table: (("images", table), _NAMED.format(rows=f"FROM {{{table}}}", key="t.class_id")) for table in ("clusters", "cluster_members")},
    "classes": (
        ("images",),
        "SELECT label AS class_id, any_value(label_name) AS class_name, count(*) AS images FROM {images} GROUP BY label",
    ),
    "predictions": (
        ("images", "predictions"),
        """SELECT p.*, own.class_name AS label_name, other.class_name AS predicted_name
        FROM {predictions} p LEFT JOIN {classes} own ON p.label = own.class_id LEFT JOIN {classes} other ON p.predicted = other.class_id""",
    ),
    "metrics": (
        ("images", "metrics"),
        "SELECT m.*, c.class_name AS label_name FROM {metrics} m LEFT JOIN {classes} c ON m.label = c.class_id",
    ),
}
_PASSES = ("forwards", "backwards", "heads", "head_backwards")
_COSTS = pa.schema([("payer", pa.string()), ("images", pa.int64()), *((name, pa.int64()) for name in _PASSES), ("seconds", pa.float64())])
_COUNTS = ("images", "explained", "failed", "errors")


class Run(Protocol):
    """What a connection needs of a run; `pipeline.tables.read.Run` is one."""

    @property
    def out(self) -> str:
        """The folder of its job."""

    @property
    def run_id(self) -> str:
        """Its id."""

    @property
    def manifest(self) -> dict:
        """Its run.json."""

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""

    def urls(self, table: str) -> list[str]:
        """The files of a table."""


def connect(runs: Mapping[str, Run]) -> "duckdb.DuckDBPyConnection":
    """A connection to runs, by the name that each has in queries.

    Every table of a run is a view NAME.TABLE. The bare TABLE is that of the only run or, of several runs, the rows of all of them
    with a column `name`. Beside the tables there are `classes`, `costs` (the passes that each
    method and metric took) and `manifest` (one row a run).
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")  # it would be printed among the rows
    for signature, body in _MACROS.items():
        connection.execute(f"CREATE MACRO {signature} AS {body}")
    views: dict[str, list[str]] = {}
    for name, run in runs.items():
        for view in _add_run(connection, name, run):
            views.setdefault(view, []).append(name)
    _add_nights(connection, {run.out for run in runs.values()})
    for view, names in views.items():
        rows = [f"SELECT {'*' if len(runs) == 1 else f'{_text(name)} AS name, *'} FROM {_quoted(name)}.{view}" for name in names]
        connection.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(rows)}")
    return connection


def _add_run(connection: "duckdb.DuckDBPyConnection", name: str, run: Run) -> list[str]:
    """Create the views of one run in a schema `name`; returns their names."""
    local = storage.is_local(run.out)
    if not local:
        connection.register_filesystem(storage.filesystem(run.out)[0])
    prefix, tables = _quoted(name), run.tables
    connection.execute(f"CREATE SCHEMA {prefix}")
    sources = {}
    for table in tables:
        # A local name is looked up before it is taken for a pattern, that of a store is not.
        urls = ", ".join(_text(url if local else escape(url)) for url in run.urls(table))
        sources[table] = f"read_parquet([{urls}], hive_partitioning = {table in schema.PARTITIONED})"
    sources["classes"] = f"{prefix}.classes"
    for table in [*("classes",) * ("images" in tables), *tables]:
        needs, query = _DERIVED.get(table, ((), ""))
        body = query.format(**sources) if needs and set(needs) <= {*tables} else f"FROM {sources[table]}"
        connection.execute(f"CREATE VIEW {prefix}.{table} AS {body}")
    facts = {"costs": _costs(run.manifest), "manifest": _manifest(run)}
    for table, rows in facts.items():
        connection.register("rows_of_manifest", rows)
        connection.execute(f"CREATE TABLE {prefix}.{table} AS FROM rows_of_manifest")
        connection.unregister("rows_of_manifest")
    return [*("classes",) * ("images" in tables), *tables, *facts]


def _add_nights(connection: "duckdb.DuckDBPyConnection", outs: Iterable[str]) -> None:
    """Create the view `nights` of all nights below these folders, where there are any."""
    folders = [storage.join(out, "nights") for out in sorted(outs)]
    urls = [storage.join(folder, path) for folder in folders for path in sorted(files.below(folder))]
    if urls:
        connection.execute(f"CREATE VIEW nights AS FROM read_parquet([{', '.join(map(_text, urls))}])")


def _costs(manifest: Mapping) -> pa.Table:
    rows = [{"payer": payer, **{name: cost.get(name) for name in _COSTS.names[1:]}} for payer, cost in manifest.get("passes", {}).items()]
    return pa.Table.from_pylist(rows, _COSTS)


def _manifest(run: Run) -> pa.Table:
    counts = run.manifest["counts"]
    row = {"run_id": run.run_id, **{key: run.manifest.get(key) for key in ("previous", "started", "finished", "seconds")}}
    return pa.Table.from_pylist([{**row, "model": run.manifest["backbone"]["name"], **{key: counts[key] for key in _COUNTS}}])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def columns(connection: "duckdb.DuckDBPyConnection") -> dict[str, list[str]]:
    """The columns of each bare table, by its name."""
    rows = connection.execute(
        "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() "
        "WHERE schema_name = 'main' AND NOT internal GROUP BY ALL ORDER BY ALL"
    )
    return dict(rows.fetchall())


def query(connection: "duckdb.DuckDBPyConnection", question: str, parameters: Mapping = MappingProxyType({})) -> "duckdb.DuckDBPyRelation":
    """The rows of one query; `parameters` are the values of `$name` in it.

    Raises:
        Refusal: where the statement is none that has rows.
        duckdb.Error: where DuckDB does not accept it; `refusing` makes a Refusal of it.
    """
    relation = connection.sql(question, params=dict(parameters) or None)
    if relation is None:
        raise Refusal("this statement has no rows; ask with SELECT")
    return relation


def show(rows: "duckdb.DuckDBPyRelation") -> None:
    """Print rows as a table with every column, however narrow the screen is."""
    rows.show(max_rows=200, max_width=100_000, max_col_width=100)


@contextmanager
def refusing(connection: "duckdb.DuckDBPyConnection", question: str) -> Iterator[None]:
    """Turn an error of DuckDB into a Refusal that names the columns of the tables in the question, or else the tables."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        known = columns(connection)
        named = [table for table in known if re.search(rf"\b{table}\b", question, re.IGNORECASE)]
        hints = [f"{table} has {', '.join(known[table])}" for table in named] or [f"the tables are {', '.join(known)}"]
        lacking = [table for table in schema.ANALYSES if table not in known and re.search(rf"\b{table}\b", question, re.IGNORECASE)]
        if lacking:
            hints = [f"the run lacks {' and '.join(lacking)}; atlas reduce --analyses {' '.join(lacking)} computes what it lacks", *hints]
        raise Refusal(f"{one_line(error)}; {'; '.join(hints)}") from error
