"""A report as a folder: index.html, the scripts and style sheets of the package, and data files that the page loads when it shows them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import storage, tables
from pipeline.refusal import Refusal
from pipeline.report import figures, payload, pictures
from pipeline.report.job import Report
from pipeline.report.selection import Selection, select
from pipeline.tables import files

if TYPE_CHECKING:
    import duckdb

HERE = Path(__file__).parent
SCRIPTS = (  # in the order in which they need each other
    "static/uPlot.iife.min.js",
    *(f"static/{name}.js" for name in ("state", "palettes", "draw", "maps", "gallery", "filters", "card", "charts", "classes")),
    "data/run.js",
    "static/main.js",
)
NOT_SHOWN = ("features", "attributes")  # tables that the report has no page for
MEGABYTE = 10**6
SLACK = 5000  # bytes kept for words about the selection
OF_AN_IMAGE = 600  # bytes of an image beside its picture and its maps
OF_A_MAP = 180  # bytes of a map's numbers beside its cells, as JSON
OF_A_SCORE = 45  # bytes of a metric of one map: in the image's file, and in the columns that the gallery filters by


@dataclass(frozen=True)
class Written:
    """A report that was written: where, its bytes, and the images it shows."""

    url: str
    size: int
    selection: Selection
    without_pictures: str | None


def write(job: Report) -> Written:
    """Write the report of a published run.

    Raises:
        Refusal: where there is no such run, the images are chosen wrongly, or `max_mb` holds not one image.
    """
    run = tables.open(job.out, job.name, job.run)
    url = job.to or storage.join(job.out, "reports", run.run_id)
    with run.connect() as connection:
        overview = Overview.of(run, connection)
        selection = select(connection, job)
        fixed = {**_package(), **overview.files()}
        taken = sum(map(len, fixed.values())) + len(overview.page(selection, None)) + len(overview.data(selection))
        selection = _bounded(connection, selection, job, taken + SLACK)
        selection.register(connection)
        thumbnails, problem = pictures.thumbnails(run.manifest, selection.image_ids, job.source) if job.pictures else ({}, None)
        fixed |= {"index.html": overview.page(selection, problem), "data/run.js": overview.data(selection)}
        size = 0
        for name, content in (*_of_images(connection, run.tables, overview, selection, thumbnails), *fixed.items()):
            files.write_bytes(storage.join(url, name), content)
            size += len(content)
    return Written(url, size, selection, problem)


def _bounded(connection: "duckdb.DuckDBPyConnection", selection: Selection, job: Report, taken: int) -> Selection:
    """As many of the selection as the report may hold beside the `taken` bytes of its other files."""
    selection.register(connection)
    columns = len(payload.metric_columns(connection))
    question = "SELECT coalesce(sum(len(map)), 0), count(*) FROM maps JOIN shown USING (image_id)"
    levels, maps = connection.execute(question).fetchall()[0]
    count = max(len(selection.image_ids), 1)
    of_maps = (4 / 3 * levels + (OF_A_MAP + OF_A_SCORE * columns) * maps) / count
    of_image = of_maps + OF_AN_IMAGE + (4 / 3 * pictures.LARGEST if job.pictures else 0)
    most = int((job.max_mb * MEGABYTE - taken) / of_image)
    if most < 1 and selection.image_ids:
        raise Refusal(
            f"--max-mb {job.max_mb:g} holds no image: one takes {of_image / MEGABYTE:.3f} MB, the tables {taken / MEGABYTE:.3f} MB"
        )
    return selection.first(most, f"that {job.max_mb:g} MB hold (--max-mb)")


def _package() -> dict[str, bytes]:
    """The scripts and style sheets of every report."""
    return {f"static/{path.name}": path.read_bytes() for path in sorted((HERE / "static").iterdir())}


def _of_images(
    connection: "duckdb.DuckDBPyConnection",
    tables: Sequence[str],
    overview: "Overview",
    selection: Selection,
    thumbnails: Mapping[str, pictures.Thumbnail],
) -> Iterator[tuple[str, bytes]]:
    """The files about the shown images: their path in the report, and their content."""
    cells, columns, count = overview.cells, overview.metrics, len(selection.image_ids)
    targets = sorted({target for _, target in cells} - {"none"}) or ["none"]
    of_images: dict[str, Any] = {
        **payload.images(connection, tables),
        "disagreement": {target: payload.disagreement(connection, target, count) for target in targets},
        "likeness": payload.likeness(connection, cells, count),
    }
    yield "data/images.js", payload.script("images", of_images)
    for number, cell in enumerate(cells if columns else ()):
        yield f"data/metrics-{number}.js", payload.script(f"metrics-{number}", payload.metric_values(connection, cell, columns, count))
    maps = payload.Maps(connection, cells, columns)
    for start in range(0, count, payload.CHUNK):
        name = f"chunk-{start // payload.CHUNK}"
        yield f"data/{name}.js", payload.script(name, maps.chunk(start, selection.image_ids, thumbnails))


@dataclass(frozen=True)
class Overview:
    """The part of a report that is about the whole run."""

    run: tables.Run
    facts: Sequence[tuple[str, str]]
    of_targets: Sequence[figures.Table]
    cells: Sequence[tuple[str, str]]
    metrics: Sequence[str]
    classes: Sequence[dict]
    class_means: Sequence[Mapping[str, Mapping[str, list]]]  # of each cell
    charts: Mapping[str, Any]

    @staticmethod
    def of(run: tables.Run, connection: "duckdb.DuckDBPyConnection") -> "Overview":
        """The overview of a published run."""
        of_targets = [figures.table(connection, target) for target in figures.targets(connection)]
        cells = payload.cells(connection)
        charts = {
            "curves": figures.curves(connection, run.tables),
            "points": figures.points(connection, of_targets),
            "ranges": _ranges(connection),
            "classes": _class_names(connection),
        }
        return Overview(
            run,
            figures.facts(run, connection),
            of_targets,
            cells,
            payload.metric_columns(connection),
            figures.classes(connection, run.tables),
            [figures.class_means(connection, *cell) for cell in cells],
            charts,
        )

    def files(self) -> dict[str, bytes]:
        """The data files that no selection changes: the classes' metrics, of each cell."""
        return {
            f"data/classes-{number}.js": payload.script(f"classes-{number}", means)
            for number, means in enumerate(self.class_means if self.classes else ())
        }

    def data(self, selection: Selection) -> bytes:
        """data/run.js: everything that the page must know before it shows an image."""
        prepare = self.run.manifest["backbone"]["prepare"]
        better = {metric: way for of_target in self.of_targets for metric, way in of_target.better.items()}
        shown = {"count": len(selection.image_ids), "total": selection.total, "how": selection.how, "chunk": payload.CHUNK}
        drawn = {"squash": prepare["crop"] == "squash", "size": prepare["size"]}
        names = {"cells": self.cells, "metrics": self.metrics, "better": better, "controls": figures.CONTROLS}
        return payload.script("run", {"run": self.run.run_id, **shown, **drawn, **names, **self.charts})

    def page(self, selection: Selection, problem: str | None) -> bytes:
        """index.html; `problem` says why pictures are missing."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"number": number, "shade": shade}
        page = environment.get_template("index.html").render(
            run=self.run,
            facts=self.facts,
            tables=self.of_targets,
            classes=self.classes,
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
