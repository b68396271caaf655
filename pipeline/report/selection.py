"""The images that a report shows: which ones, in which order, and how they were chosen, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.refusal import Refusal, choose, counted
from pipeline.report.job import Report
from pipeline.tables import sql

if TYPE_CHECKING:
    import duckdb

SAMPLE_ORDER = "md5($seed || '/' || image_id), image_id"  # by chance, and the same on every machine


@dataclass(frozen=True)
class Selection:
    """The shown images, of `total` in the run; `how` says how they were chosen."""

    image_ids: tuple[str, ...]
    total: int
    how: str

    def first(self, count: int, reason: str) -> "Selection":
        """The first `count` images; `reason` says why no more."""
        if count >= len(self.image_ids):
            return self
        return Selection(self.image_ids[:count], self.total, f"{self.how}, the first {count} {reason}")

    def register(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Make them the table `shown`: `image_id`, and `place` in their order from 0."""
        _numbered(connection, "shown", self.image_ids)


def _numbered(connection: "duckdb.DuckDBPyConnection", table: str, image_ids: Sequence[str]) -> None:
    """Make images a table: `image_id`, and `place` in their order from 0."""
    import pyarrow as pa

    rows = pa.table({"image_id": pa.array(image_ids, pa.string()), "place": pa.array(range(len(image_ids)), pa.int32())})
    connection.register("rows_of_images", rows)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS FROM rows_of_images")
    connection.unregister("rows_of_images")


def select(connection: "duckdb.DuckDBPyConnection", job: Report) -> Selection:
    """Choose the images of a report.

    Raises:
        Refusal: where two ways to choose are named, one names no image of the run, or a query has no column image_id.
    """
    ways = [flag for flag, value in (("--classes", job.classes), ("--keys", job.keys), ("--select", job.select)) if value]
    if len(ways) > 1:
        raise Refusal(f"{' and '.join(ways)} both choose the images; give one of them")
    total = connection.execute("SELECT count(*) FROM images").fetchall()[0][0]
    if job.select:
        chosen, how = _by_query(connection, job.select), "by the query of --select"
    elif job.keys:
        chosen, how = _by_list(connection, job.keys), "by the list of --keys"
    else:
        return _sample(connection, job, total)
    if not chosen:
        raise Refusal(f"{ways[0]} names no image of the run; atlas sql shows the table `images`")
    return Selection(chosen, total, how).first(job.images, "of them (--images)")


def _sample(connection: "duckdb.DuckDBPyConnection", job: Report, total: int) -> Selection:
    """All images, or those of some classes; where they are too many, a sample."""
    labels = _labels(connection, job.classes)
    condition = f"WHERE label IN ({', '.join(map(str, labels))})" if labels else ""
    count = connection.execute(f"SELECT count(*) FROM images {condition}").fetchall()[0][0]
    question = f"SELECT image_id FROM images {condition} ORDER BY {SAMPLE_ORDER} LIMIT $count"
    rows = connection.execute(question, {"seed": str(job.seed), "count": job.images}).fetchall()
    which = f"all of {counted(len(labels), 'classes')}" if labels else "all"
    drawn = f"a sample of {'those classes' if labels else 'the run'}, each image equally likely"
    how = f"{drawn if count > len(rows) else which}, in an order drawn by seed {job.seed}"
    return Selection(tuple(image_id for (image_id,) in rows), total, how)


def _labels(connection: "duckdb.DuckDBPyConnection", names: tuple[str, ...]) -> list[int]:
    """The numbers of classes that are given by name or number."""
    known = dict(
        connection.execute("SELECT coalesce(class_name, class_id::VARCHAR), class_id FROM classes WHERE class_id NOTNULL").fetchall()
    )
    numbers = {str(number): number for number in known.values()}
    return [known[name] if name in known else numbers[choose(name, {**known, **numbers}, "class")] for name in names]


def _by_query(connection: "duckdb.DuckDBPyConnection", question: str) -> tuple[str, ...]:
    with sql.refusing(connection, question):
        rows = sql.query(connection, question)
        if "image_id" not in rows.columns:
            raise Refusal(f"--select returns {', '.join(rows.columns)}; it must return a column image_id")
        chosen = dict.fromkeys(image_id for (image_id,) in rows.project("image_id").fetchall())
    return _of_run(connection, list(chosen))


def _by_list(connection: "duckdb.DuckDBPyConnection", url: str) -> tuple[str, ...]:
    try:
        lines = storage.read_bytes(url).decode().splitlines()
    except FileNotFoundError as error:
        raise Refusal(f"--keys {url} does not exist; give a file with an image_id a line") from error
    return _of_run(connection, list(dict.fromkeys(line.strip() for line in lines if line.strip())))


def _of_run(connection: "duckdb.DuckDBPyConnection", chosen: Sequence[str]) -> tuple[str, ...]:
    """Those of the chosen images that the run has, in their order."""
    _numbered(connection, "chosen", chosen)
    rows = connection.execute("SELECT image_id FROM chosen SEMI JOIN images USING (image_id) ORDER BY place").fetchall()
    return tuple(image_id for (image_id,) in rows)
