"""The metrics table: one row a map, one column a metric; and partials, added up."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import schema

PARTIAL_KEYS = schema.PARTIALS.names[:-1]


def widen(scores: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Scores, one row a value, as metrics, one row a map, sorted by image, method and target."""
    form = schema.metrics(columns)
    keys = [name for name in form.names if name in scores.column_names]
    rows = scores.select(keys).group_by(keys).aggregate([]).select(keys)
    rows = rows.sort_by([(key, "ascending") for key in ("image_id", "method", "target")])
    place = pc.index_in(_key(scores), _key(rows)).to_numpy()
    names = np.array(scores["metric"].to_pylist(), dtype=object)
    values = scores["value"].to_numpy().astype(np.float32)  # null becomes NaN, and no score is NaN
    found = {key: rows[key] for key in keys}
    for column in form.names[len(keys) : -1]:
        mine = names == column
        wide = np.full(rows.num_rows, np.nan, np.float32)
        wide[place[mine]] = values[mine]
        found[column] = pa.array(wide, mask=np.isnan(wide))
    return pa.table([*found.values(), _reasons(scores, place, rows.num_rows)], names=form.names).cast(form)


def _key(table: pa.Table) -> pa.Array:
    parts = [table[name].combine_chunks() for name in ("image_id", "method", "target")]
    return pc.binary_join_element_wise(*parts, "\0") if table.num_rows else pa.array([], pa.string())


def _reasons(scores: pa.Table, place: np.ndarray, rows: int) -> pa.Array:
    """Column -> reason of each row's nulls; null where there is none."""
    told: list[list | None] = [None] * rows
    silent = np.nonzero(scores["value"].is_null().to_numpy())[0]
    for row, column, reason in zip(place[silent], *(scores[name].take(silent).to_pylist() for name in ("metric", "reason")), strict=True):
        told[row] = [*(told[row] or ()), (column, reason)]
    return pa.array([each and sorted(each) for each in told], pa.map_(pa.string(), pa.string()))


def counts(partials: pa.Table) -> Iterator[tuple[tuple, np.ndarray]]:
    """Each row of partials: its keys, and its values."""
    values = partials["values"].combine_chunks()
    flat, ends = values.values.to_numpy(), values.offsets.to_numpy()
    keys = zip(*(partials[name].to_pylist() for name in PARTIAL_KEYS), strict=True)
    for key, start, stop in zip(keys, ends[:-1], ends[1:], strict=True):
        yield key, flat[start:stop]


def without_groups(partials: pa.Table) -> pa.Table:
    """Partials as a run keeps them: the sums of groups of images have served for the summary's intervals."""
    return partials.filter(pc.invert(pc.starts_with(partials["kind"], "group ")))


def add_partials(partials: pa.Table) -> pa.Table:
    """Partials of one metric, model, method, target, scope and kind added up, in the order they come in."""
    sums: dict[tuple, np.ndarray] = {}
    for key, values in counts(partials):
        sums[key] = sums.get(key, 0) + values
    keys = sorted(sums)
    columns = [*(list(part) for part in zip(*keys, strict=True)), [sums[key] for key in keys]] if keys else [[] for _ in schema.PARTIALS]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, schema.PARTIALS, strict=True)], schema=schema.PARTIALS)
