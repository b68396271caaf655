"""The metrics of two runs: paired differences over the images in both, and those of the whole dataset.

C columns of metrics, N images
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compare.scopes import Scopes, paired_rows
from pipeline.tables import schema

if TYPE_CHECKING:
    import duckdb

_COLUMNS = "SELECT column_name FROM duckdb_columns() WHERE schema_name = $run AND table_name = 'metrics'"
_KINDS = """
SELECT DISTINCT method, target FROM now.metrics JOIN (SELECT DISTINCT method, target FROM before.metrics) USING (method, target) ORDER BY ALL
"""
_PAIRS = """
SELECT image_id, n.label, {columns} FROM now.metrics n JOIN before.metrics b USING (image_id, method, target)
WHERE n.method = $method AND n.target = $target ORDER BY image_id
"""
# Columns of the summary that are no column of `metrics`: numbers of the whole dataset, whose differences have no pairs and so no interval.
_OF_DATASET = """
SELECT method, target, metric AS quantity, scope, n.n, b.mean AS before, n.mean AS now, n.mean - b.mean AS value
FROM now.summary n JOIN before.summary b USING (method, target, metric, scope)
WHERE NOT list_contains($columns, metric) ORDER BY ALL
"""


def compare_scores(connection: "duckdb.DuckDBPyConnection") -> list[dict]:
    """Rows of `drift` about every metric that both runs have, for each method and target, over all images and those of each class."""
    names = [{name for (name,) in connection.execute(_COLUMNS, {"run": run}).fetchall()} for run in ("now", "before")]
    columns = sorted(set.intersection(*names) - {*schema.metrics(()).names, "label_name"})
    quoted = ", ".join(f'n."{name}" AS now_{i}, b."{name}" AS before_{i}' for i, name in enumerate(columns))
    rows = []
    for method, target in connection.execute(_KINDS).fetchall() if columns else ():
        of_maps = {"method": method, "target": target}
        pairs = connection.sql(_PAIRS.format(columns=quoted), params=of_maps).to_arrow_table()
        before, now = (
            np.array([pairs[f"{run}_{i}"].to_numpy(zero_copy_only=False) for i in range(len(columns))], dtype=np.float64)
            for run in ("before", "now")
        )
        scopes = Scopes.of(pairs["label"])
        rows += [{"kind": "metrics", **of_maps, **row} for row in paired_rows(columns, before, now, pairs["image_id"].to_numpy(), scopes)]
    of_dataset = connection.sql(_OF_DATASET, params={"columns": columns}).to_arrow_table().to_pylist()
    return rows + [{"kind": "metrics", **row} for row in of_dataset]
