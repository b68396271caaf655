"""The curves table: the mean curve of each metric that has one."""

import pyarrow as pa

from pipeline.score.partials import WHOLE
from pipeline.tables import schema


def curves_of(partials: pa.Table) -> pa.Table:
    """The mean curve of each metric that has one, a row a step."""
    keys = ("model", "method", "target")
    sums = partials.to_pylist()
    counts = {tuple(row[name] for name in ("metric", "scope", *keys)): row["values"][0] for row in sums if row["kind"] == "n"}
    rows = []
    for row in sums:
        column = row["kind"].removeprefix("curve: ")
        if column != row["kind"]:
            n = counts[tuple(row[name] for name in ("metric", "scope", *keys))]
            curve = {**{name: row[name] for name in keys}, "metric": column, "n": int(n)}
            rows += [{**curve, "step": step, "mean": total / WHOLE / n} for step, total in enumerate(row["values"])]
    return pa.Table.from_pylist(rows, schema.CURVES).sort_by([(name, "ascending") for name in (*keys, "metric", "step")])
