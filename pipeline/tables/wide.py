"""The metrics table: one row a map, one column a metric; and partials, added up."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import schema

PARTIAL_KEYS = schema.PARTIALS.names[:-1]


def widen(scores: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Turn scores, one row a value, into metrics, one row a map, sorted by image, method and target."""
    metrics = schema.metrics(columns)
    keys = [name for name in metrics.names if name in scores.column_names]
    rows = scores.select(keys).group_by(keys).aggregate([]).select(keys)
    rows = rows.sort_by([(key, "ascending") for key in ("image_id", "method", "target")])
    row_of = pc.index_in(_key(scores), _key(rows)).to_numpy()
    names = np.array(scores["metric"].to_pylist(), dtype=object)
    values = scores["value"].to_numpy().astype(np.float32)  # null becomes NaN, and no score is NaN
    arrays = [rows[key] for key in keys]
    for column in metrics.names[len(keys) : -1]:
        of_column = names == column
        wide = np.full(rows.num_rows, np.nan, np.float32)
        wide[row_of[of_column]] = values[of_column]
        arrays.append(pa.array(wide, mask=np.isnan(wide)))
    return pa.table([*arrays, _reasons(scores, row_of, rows.num_rows)], names=metrics.names).cast(metrics)


def _key(table: pa.Table) -> pa.Array:
    parts = [table[name].combine_chunks() for name in ("image_id", "method", "target")]
    return pc.binary_join_element_wise(*parts, "\0") if table.num_rows else pa.array([], pa.string())


def _reasons(scores: pa.Table, row_of: np.ndarray, rows: int) -> pa.Array:
    """Column -> reason of each row's nulls; null where there is none. `row_of` is the row of each score."""
    reasons: list[list | None] = [None] * rows
    nulls = np.nonzero(scores["value"].is_null().to_numpy())[0]
    for row, column, reason in zip(row_of[nulls], *(scores[name].take(nulls).to_pylist() for name in ("metric", "reason")), strict=True):
        reasons[row] = [*(reasons[row] or ()), (column, reason)]
    return pa.array([of_row and sorted(of_row) for of_row in reasons], pa.map_(pa.string(), pa.string()))


def sums_of(partials: pa.Table) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """The rows of partials: the columns that name a sum, and the sum."""
    values = partials["values"].combine_chunks()
    flat, ends = values.values.to_numpy(), values.offsets.to_numpy()
    keys = zip(*(partials[name].to_pylist() for name in PARTIAL_KEYS), strict=True)
    for key, start, stop in zip(keys, ends[:-1], ends[1:], strict=True):
        yield key, flat[start:stop]


def drop_groups(partials: pa.Table) -> pa.Table:
    """Partials as a run keeps them: without the sums over groups of images, which serve for the summary's intervals alone."""
    return partials.filter(pc.invert(pc.starts_with(partials["kind"], "group ")))


def add_partials(partials: pa.Table) -> pa.Table:
    """Add up partials of one metric, model, method, target, scope and kind, in the order of the rows."""
    sums: dict[tuple[str, ...], np.ndarray] = {}
    for key, values in sums_of(partials):
        sums[key] = sums.get(key, 0) + values
    keys = sorted(sums)
    columns = [*(list(part) for part in zip(*keys, strict=True)), [sums[key] for key in keys]] if keys else [[] for _ in schema.PARTIALS]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, schema.PARTIALS, strict=True)], schema=schema.PARTIALS)
