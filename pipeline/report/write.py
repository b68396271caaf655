"""A report as a folder: index.html, the scripts and style sheets of the package, and data files that the page loads when it shows them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import storage, tables
from pipeline.refusal import Refusal
from pipeline.report import analyses, payload, pictures
from pipeline.report.comparison import Comparison
from pipeline.report.job import Report
from pipeline.report.overview import Overview
from pipeline.report.selection import Selection, select
from pipeline.tables import files

if TYPE_CHECKING:
    import duckdb

HERE = Path(__file__).parent
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
OF_A_REPORT = re.compile(r"data/(moved|aggatt|(chunk|metrics|classes|means)-\d+)\.js")  # files that the next report there may lack
MEGABYTE = 10**6
OF_MEAN_MAPS = 1 / 4  # of the report's bytes, at most
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
        overview = Overview.of(run, connection, job.max_mb * MEGABYTE * OF_MEAN_MAPS)
        selection = select(connection, job)
        fixed = {**_package(), **overview.files()}
        if job.against:
            comparison = Comparison.of(run, job.against, overview.cells)
            overview = replace(overview, comparison=comparison)
            moved, _ = _thumbnails(run, [row["image_id"] for row in comparison.moved], job)
            fixed["data/moved.js"] = payload.script("moved", comparison.with_pictures(moved))
        taken = sum(map(len, fixed.values())) + len(overview.page(selection, None)) + len(overview.data(selection))
        selection = _bounded(connection, selection, job, taken + SLACK)
        selection.register(connection)
        thumbnails, problem = _thumbnails(run, selection.image_ids, job)
        fixed |= {"index.html": overview.page(selection, problem), "data/run.js": overview.data(selection)}
        size, names = 0, set()
        for name, content in (*_of_images(connection, run.tables, overview, selection, thumbnails), *fixed.items()):
            files.write_bytes(storage.join(url, name), content, MEDIA_TYPES[Path(name).suffix])
            size += len(content)
            names.add(name)
    stale = [name for name in files.below(url) if OF_A_REPORT.fullmatch(name) and name not in names]
    storage.remove([storage.join(url, name) for name in stale])
    return Written(url, size, selection, problem)


def _thumbnails(run: tables.Run, image_ids: Sequence[str], job: Report) -> tuple[dict[str, pictures.Thumbnail], str | None]:
    return pictures.thumbnails(run.manifest, image_ids, job.source) if job.pictures else ({}, None)


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
    overview: Overview,
    selection: Selection,
    thumbnails: Mapping[str, pictures.Thumbnail],
) -> Iterator[tuple[str, bytes]]:
    """The files about the shown images: their path in the report, and their content."""
    cells, columns, count = overview.cells, overview.metrics, len(selection.image_ids)
    targets = sorted({target for _, target in cells} - {"none"}) or ["none"]
    of_images: dict[str, Any] = {
        **payload.images(connection, tables),
        "disagreement": {target: analyses.disagreement(connection, tables, target, count) for target in targets},
        "likeness": payload.likeness(connection, cells, count),
    }
    yield "data/images.js", payload.script("images", of_images)
    for number, cell in enumerate(cells if columns else ()):
        yield f"data/metrics-{number}.js", payload.script(f"metrics-{number}", payload.metric_values(connection, cell, columns, count))
    maps = payload.Maps(connection, cells, columns)
    for start in range(0, count, payload.CHUNK):
        name = f"chunk-{start // payload.CHUNK}"
        yield f"data/{name}.js", payload.script(name, maps.chunk(start, selection.image_ids, thumbnails))
