"""The part of a report that is about the whole run: its page, and the data files that no selection of images changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.report import analyses, figures, payload
from pipeline.report.comparison import Comparison
from pipeline.report.selection import Selection

if TYPE_CHECKING:
    import duckdb

    from pipeline.tables.read import Run

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = (  # in the order in which they need each other
    "static/uPlot.iife.min.js",
    *(
        f"static/{name}.js"
        for name in ("state", "palettes", "draw", "maps", "gallery", "filters", "card", "charts", "classes", "aggatt", "compare")
    ),
    "data/run.js",
    "static/main.js",
)
NOT_SHOWN = ("features", "attributes", "map_boxes")  # tables that the report has no page for


@dataclass(frozen=True)
class Overview:
    """The part of a report that is about the whole run."""

    run: "Run"
    facts: Sequence[tuple[str, str]]
    of_targets: Sequence[figures.Table]
    agreement: Mapping[str, Mapping[str, Mapping[str, float]]]  # target -> method -> method -> mean correlation of their maps
    cells: Sequence[tuple[str, str]]
    metrics: Sequence[str]
    classes: Sequence[dict]
    charts: Mapping[str, Any]
    tables: Mapping[str, Any]  # content of the data files that no selection changes, by name
    mean_maps: int  # classes that have their mean maps in them
    comparison: Comparison | None = None

    @staticmethod
    def of(run: "Run", connection: "duckdb.DuckDBPyConnection", room: float) -> "Overview":
        """The overview of a published run, whose mean maps of classes take up to `room` bytes."""
        of_targets = [figures.table(connection, target) for target in figures.targets(connection)]
        cells, classes = payload.cells(connection), figures.classes(connection, run.tables)
        charts = {
            "curves": figures.curves(connection, run.tables),
            "points": figures.points(connection, of_targets),
            "ranges": _ranges(connection),
            "classes": _class_names(connection),
        }
        content: dict[str, Any] = {}
        for number, cell in enumerate(cells if classes else ()):
            content[f"classes-{number}"] = {**figures.class_means(connection, *cell), **analyses.class_means(connection, run.tables, *cell)}
        ids = [row["class_id"] for row in classes]
        means, mean_maps = analyses.mean_maps(connection, cells, ids, room) if "mean_maps" in run.tables else ([], 0)
        content |= {f"means-{number}": of_cell for number, of_cell in enumerate(means)}
        if "aggatt" in run.tables:
            content["aggatt"] = analyses.aggatt(connection, cells)
        metrics, facts = payload.metric_columns(connection), figures.facts(run, connection)
        agreement = {target: analyses.agreement(connection, run.tables, target) for target in figures.targets(connection)}
        return Overview(run, facts, of_targets, agreement, cells, metrics, classes, charts, content, mean_maps)

    def files(self) -> dict[str, bytes]:
        """The data files that no selection changes."""
        return {f"data/{name}.js": payload.script(name, content) for name, content in self.tables.items()}

    def data(self, selection: Selection) -> bytes:
        """data/run.js: everything that the page must know before it shows an image."""
        prepare = self.run.manifest["backbone"]["prepare"]
        better = {metric: way for of_target in self.of_targets for metric, way in of_target.better.items()}
        shown = {"count": len(selection.image_ids), "total": selection.total, "how": selection.how, "chunk": payload.CHUNK}
        drawn = {"squash": prepare["crop"] == "squash", "size": prepare["size"]}
        names = {"cells": self.cells, "metrics": self.metrics, "better": better, "controls": figures.CONTROLS}
        files = {"files": sorted(self.tables), "spearman": "disagreement" in self.run.tables}
        return payload.script("run", {"run": self.run.run_id, **shown, **drawn, **names, **files, **self.charts})

    def page(self, selection: Selection, problem: str | None) -> bytes:
        """index.html; `problem` says why pictures are missing."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"number": number, "shade": shade}
        page = environment.get_template("index.html").render(
            run=self.run,
            facts=self.facts,
            tables=self.of_targets,
            agreement=self.agreement,
            classes=self.classes,
            mean_maps=self.mean_maps,
            comparison=self.comparison,
            missing=[name for name in analyses.TABLES if name not in self.run.tables],
            controls=figures.CONTROLS,
            selection=selection,
            problem=problem,
            question=figures.SUMMARY,
            curves=bool(self.charts["curves"]),
            absent=[name for name in NOT_SHOWN if name in self.run.tables],
            scripts=SCRIPTS,
        )
        return page.encode()


def _class_names(connection: "duckdb.DuckDBPyConnection") -> dict[str, str]:
    rows = connection.execute("SELECT class_id, class_name FROM classes WHERE class_id NOTNULL AND class_name NOTNULL ORDER BY ALL")
    return {str(number): name for number, name in rows.fetchall()}


def _ranges(connection: "duckdb.DuckDBPyConnection") -> dict[str, dict[str, list[float]]]:
    """Of the maps of each method and target in the whole run: [least minimum, largest maximum, median range]."""
    rows = connection.execute(
        "SELECT method, target, min(map_min), max(map_max), median(map_max - map_min) FROM maps GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    ranges: dict[str, dict[str, list[float]]] = {}
    for method, target, *numbers in rows:
        ranges.setdefault(method, {})[target] = numbers
    return ranges


def number(value: float | None, digits: int = 3) -> str:
    """A number as the tables show it: so many significant digits, without an exponent where that is short; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 10**6 else text.replace("-", "\u2212")


def shade(value: float | None) -> str:
    """The class of the style sheet that colours a correlation."""
    if value is None:
        return ""
    step = round(4 * value)
    return f"shade-{'n' if step < 0 else 'p' if step > 0 else ''}{abs(step)}"
