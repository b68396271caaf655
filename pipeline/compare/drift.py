"""The drift between two runs: one table of numbers, and the images whose maps moved most."""

from dataclasses import dataclass

import pyarrow as pa

from pipeline.compare.answers import compare_answers
from pipeline.compare.inputs import compare_inputs
from pipeline.compare.maps import compare_maps
from pipeline.compare.scores import compare_scores
from pipeline.compare.versions import compare_versions
from pipeline.tables import schema
from pipeline.tables.read import Run

KEYS = ("kind", "method", "target", "scope", "quantity")


@dataclass(frozen=True)
class Drift:
    """What lies between two runs: `drift`, a row a number, and `moved`, a row an image whose map moved."""

    drift: pa.Table
    moved: pa.Table


def drift_between(now: Run, before: Run, top: int) -> Drift:
    """Compare two runs, image by image, whatever network each is of; a table that one of them lacks is left out.

    Parameters:
        top: how many images of each method and target `moved` names at most.
    """
    from pipeline.tables import sql

    tables = {*now.tables} & {*before.tables}
    with sql.connect({"now": now, "before": before}) as connection:
        rows = compare_versions(now.manifest, before.manifest)
        rows += compare_inputs(connection, now.manifest, before.manifest)
        rows += compare_answers(connection)
        of_maps, moved = compare_maps(connection, top) if "maps" in tables else ([], schema.MOVED.empty_table())
        rows += of_maps + (compare_scores(connection) if {"metrics", "summary"} <= tables else [])
    return Drift(pa.Table.from_pylist(rows, schema.DRIFT), moved)


def with_floor(drift: pa.Table, floor: pa.Table) -> pa.Table:
    """`drift` with the values that the same rows have in `floor`, the drift between two runs of one job."""
    values = {tuple(row[key] for key in KEYS): row["value"] for row in floor.to_pylist()}
    of_rows = [values.get(key) for key in zip(*(drift[name].to_pylist() for name in KEYS), strict=True)]
    return drift.set_column(drift.schema.get_field_index("floor"), schema.DRIFT.field("floor"), pa.array(of_rows, pa.float64()))
