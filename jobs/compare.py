"""Say what changed between two runs: images, predictions, maps, metrics, versions; limits turn it into an exit code.

python -m jobs.compare --out s3://b/atlas                                  # the published run and the one before it
python -m jobs.compare --out s3://b/atlas default resnet --bad 'spearman<0.9' 'flips>0.01'
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import tyro

from pipeline import storage, tables
from pipeline.compare.drift import Drift, drift_between, with_floor
from pipeline.compare.verdict import Limit, has_changed, rows_beyond, sentence
from pipeline.refusal import Count, check_numbers
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.tables import files
from pipeline.tables.read import Run
from pipeline.tables.receipts import parquet_bytes

BAD = 4  # the exit code of a drift beyond a limit
CODES = "exit codes: 0 within every limit, 1 broken off, 2 refused, 4 beyond a limit of --bad."
ROUNDED = [f"round({name}, 4) AS {name}" for name in ("before", "now", "value", "ci_low", "ci_high")]
COLUMNS = ("kind", "method", "target", "quantity", "n", *ROUNDED)
ROWS_PRINTED = 40


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Say what changed between two runs, image by image over the images in both, with intervals at 95 %.

    A run is a published name, a run id, `previous` (the run before NOW) or PLACE#NAME, one below another --out; the networks may differ.
    The tables `drift` (a row a number; of maps and predictions their likeness, of metrics the paired difference) and `moved` (the images
    whose maps moved most) go to OUT/drift/NOW/BEFORE.
    """

    now: Annotated[str, tyro.conf.Positional] = "default"
    """The run to look at."""
    before: Annotated[str, tyro.conf.Positional] = "previous"
    """The run to compare it with."""
    out: str
    """Where tables go: the --out of the jobs."""
    bad: tuple[str, ...] = ()
    """Limits, as spearman<0.9, flips>0.01 or grad_cam.energy<-0.02: a value that lies beyond one with the whole of its interval ends the job
    with exit code 4. A metric stands for its paired difference."""
    floor: str | None = None
    """A further run of BEFORE's job: the drift between these two, which nothing but chance and machines has made, is the column `floor`."""
    top: Count = 20
    """How many images the table `moved` names for each method and target."""
    to: str | None = None
    """Folder or URL of the tables, in place of OUT/drift/NOW/BEFORE."""

    def __post_init__(self):
        check_numbers(self)


@dataclass(frozen=True)
class Comparison:
    """The drift between two runs, its verdict in one sentence, and the limits that it is beyond."""

    drift: Drift
    verdict: str
    bad: list[str]


def compare(job: Compare) -> Comparison:
    """Carry out a comparison and write its tables."""
    limits = [Limit.parse(text) for text in job.bad]
    now = tables.find(job.out, job.now)
    before = tables.find(job.out, job.before, now)
    drift = drift_between(now, before, job.top)
    if job.floor:
        floor = drift_between(tables.find(job.out, job.floor, now), before, job.top)
        drift = Drift(with_floor(drift.drift, floor.drift), drift.moved)
    rows = drift.drift.to_pylist()
    beyond = rows_beyond(limits, rows)
    verdict = sentence(rows, beyond)
    bad = [limit.text for limit, _ in beyond]
    _write(job, now, before, drift, {"verdict": verdict, "bad": bad})
    return Comparison(drift, verdict, bad)


def _write(job: Compare, now: Run, before: Run, drift: Drift, verdict: Mapping[str, str | Sequence[str]]) -> None:
    folder = job.to or storage.join(job.out, "drift", now.run_id, before.run_id)
    for name, rows in (("drift", drift.drift), ("moved", drift.moved)):
        files.write_bytes(storage.join(folder, f"{name}.parquet"), parquet_bytes([rows]))
    content = {**verdict, "now": now.run_id, "before": before.run_id}
    files.write_json(storage.join(folder, "verdict.json"), content)


def main(arguments: list[str] | None = None) -> int:
    """Carry out the comparison of a command line; returns the exit code."""
    return exit_code_of(lambda: report(command_line(Compare, "jobs.compare", arguments, CODES)))


def report(job: Compare) -> int:
    """Print the numbers that changed over all images, and the verdict as the last line; returns the exit code."""
    import duckdb

    from pipeline.tables import sql

    comparison = compare(job)
    rows = comparison.drift.drift
    changed = [row for row in rows.to_pylist() if row["scope"] == "all" and row["kind"] != "versions" and has_changed(row)]
    if changed:
        connection = duckdb.connect()
        connection.register("changed", pa.Table.from_pylist(changed, rows.schema))
        sql.show(connection.sql(f"SELECT {', '.join(COLUMNS)} FROM changed LIMIT {ROWS_PRINTED}"))
    if len(changed) > ROWS_PRINTED:
        print(f"... and {len(changed) - ROWS_PRINTED:,} more")
    print(comparison.verdict)
    return BAD if comparison.bad else 0


if __name__ == "__main__":
    sys.exit(main())
