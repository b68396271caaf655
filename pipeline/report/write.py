"""A report as a folder: index.html, the scripts and style sheets of the package, and data files that the page loads when it shows them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
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
    *(f"static/{name}.js" for name in ("state", "palettes", "draw", "maps", "gallery", "filters", "card", "charts")),
    "data/run.js",
    "static/main.js",
)
ABSENT = ("features", "attributes", "curves of single images")  # what a run may hold and the report has no page for
MEGABYTE = 10**6
PAGE = MEGABYTE  # bytes kept for the page, its scripts and the tables of the run
OF_A_MAP = 150  # bytes of a map's numbers beside its cells, as JSON
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
    with ExitStack() as stack:
        connection = stack.enter_context(run.connect())
        selection = _bounded(connection, select(connection, job), job)
        selection.register(connection)
        thumbnails, problem = pictures.thumbnails(run.manifest, selection.image_ids, job.source) if job.pictures else ({}, None)
        size = 0
        for name, content in _files(run, connection, selection, thumbnails, problem):
            files.write_bytes(storage.join(url, name), content)
            size += len(content)
    return Written(url, size, selection, problem)


def _bounded(connection: "duckdb.DuckDBPyConnection", selection: Selection, job: Report) -> Selection:
    """As many of the selection as the report may hold."""
    selection.register(connection)
    columns = len(payload.metric_columns(connection))
    question = "SELECT coalesce(sum(len(map)), 0), count(*) FROM maps JOIN shown USING (image_id)"
    levels, maps = connection.execute(question).fetchall()[0]
    count = max(len(selection.image_ids), 1)
    of_maps = (4 / 3 * levels + (OF_A_MAP + OF_A_SCORE * columns) * maps) / count
    of_image = of_maps + 500 + (4 / 3 * pictures.LARGEST if job.pictures else 0)
    room = job.max_mb * MEGABYTE - PAGE
    most = int(room / of_image)
    if most < 1 and selection.image_ids:
        raise Refusal(f"--max-mb {job.max_mb:g} holds no image; one takes {of_image / MEGABYTE:.2f} MB, the page {PAGE / MEGABYTE:g} MB")
    return selection.first(most, f"that {job.max_mb:g} MB hold (--max-mb)")


def _files(
    run: tables.Run,
    connection: "duckdb.DuckDBPyConnection",
    selection: Selection,
    thumbnails: Mapping[str, pictures.Thumbnail],
    problem: str | None,
) -> Iterator[tuple[str, bytes]]:
    """Every file of the report: its path in it, and its content."""
    of_targets = [figures.table(connection, target) for target in figures.targets(connection)]
    cells, columns, count = payload.cells(connection), payload.metric_columns(connection), len(selection.image_ids)
    overview: dict[str, Any] = {
        "run": run.run_id,
        "count": count,
        "total": selection.total,
        "how": selection.how,
        "chunk": payload.CHUNK,
        "cells": cells,
        "metrics": columns,
        "better": {metric: better for of_target in of_targets for metric, better in of_target.better.items()},
        "controls": figures.CONTROLS,
        "classes": _class_names(connection),
        "squash": run.manifest["backbone"]["prepare"]["crop"] == "squash",
        "size": run.manifest["backbone"]["prepare"]["size"],
        "curves": figures.curves(connection, run.tables),
        "points": figures.points(connection, of_targets),
        "ranges": _ranges(connection),
    }
    yield "data/run.js", payload.script("run", overview)
    of_images = payload.images(connection, run.tables)
    targets = sorted({target for _, target in cells} - {"none"})
    of_images["disagreement"] = {target: payload.disagreement(connection, target, count) for target in targets or ["none"]}  # type: ignore[assignment]
    yield "data/images.js", payload.script("images", of_images)
    for number, cell in enumerate(cells if columns else ()):
        yield f"data/metrics-{number}.js", payload.script(f"metrics-{number}", payload.metric_values(connection, cell, columns, count))
    maps = payload.Maps(connection, cells, columns)
    for start in range(0, count, payload.CHUNK):
        name = f"chunk-{start // payload.CHUNK}"
        yield f"data/{name}.js", payload.script(name, maps.chunk(start, selection.image_ids, thumbnails))
    for path in sorted((HERE / "static").iterdir()):
        yield f"static/{path.name}", path.read_bytes()
    yield "index.html", _page(run, connection, selection, of_targets, problem)


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


def _page(
    run: tables.Run,
    connection: "duckdb.DuckDBPyConnection",
    selection: Selection,
    of_targets: list[figures.Table],
    problem: str | None,
) -> bytes:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "shade": shade}
    page = environment.get_template("index.html").render(
        run=run,
        facts=figures.facts(run, connection),
        tables=of_targets,
        controls=figures.CONTROLS,
        selection=selection,
        problem=problem,
        question=figures.SUMMARY,
        curves=bool(figures.curves(connection, run.tables)),
        absent=ABSENT,
        scripts=SCRIPTS,
    )
    return page.encode()


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
