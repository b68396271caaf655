"""The numbers of the controls `random` and `fake_cam` beside every number, and the reasons of those that are null."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.families import METRICS
from pipeline.reduce.baselines import CONTROL_COLUMNS, OWN, TO_LABEL, TO_RANDOM, compared_to_label
from pipeline.spec.columns import columns_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice


def add_controls(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Fill the columns of each control, which rows of `summary` or `curves` have, from its own row with the same `keys`; null without one."""
    for control, columns in CONTROL_COLUMNS.items():
        own = rows.filter((pc.field("method") == control) & (pc.field("target") == "none"))
        row_of = pc.index_in(_joined(rows, keys), _joined(own, keys))
        for name, of in zip(columns, OWN, strict=True):
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), own[of].take(row_of))
    return rows


def _joined(rows: pa.Table, keys: Sequence[str]) -> pa.Array:
    """The keys of each row as one text."""
    parts = [pc.fill_null(pc.cast(rows[key], pa.string()), "").combine_chunks() for key in keys]
    return pc.binary_join_element_wise(*parts, "\0") if rows.num_rows else pa.array([], pa.string())


def add_reasons(summary: pa.Table, spec: ExplainSpec) -> pa.Table:
    """Fill the column `reasons` of a whole summary: column -> why its number is null; null in rows that lack none."""
    metric_of = {column: metric for metric in spec.metrics for column in columns_of(metric)}
    methods = {method for method in CONTROL_COLUMNS if method in pc.unique(summary["method"]).to_pylist()}
    needed = ["target", "metric", "scope", OWN.value, OWN.low, *_values()]
    reasons = [[*_reasons(row, metric_of[row["metric"]], methods)] or None for row in summary.select(needed).to_pylist()]
    field = summary.schema.field("reasons")
    return summary.set_column(summary.schema.get_field_index("reasons"), field, pa.array(reasons, field.type))


def _values() -> list[str]:
    return [columns.value for columns in (*CONTROL_COLUMNS.values(), TO_RANDOM, TO_LABEL)]


def _reasons(row: Mapping, metric: Choice, present: set[str]) -> Iterator[tuple[str, str]]:
    """Each null of a row with its reason; `present` are the controls that the run has. What is null by its meaning has no reason."""
    if row[OWN.value] is None:
        yield OWN.value, "nothing has a value"
    elif row[OWN.low] is None:
        yield OWN.low, _without_interval(row["scope"], metric)
    for control, columns in CONTROL_COLUMNS.items():
        if row[columns.value] is None:
            yield columns.value, _without_baseline(f"method {control}", control in present)
    if row[TO_RANDOM.value] is None and row[OWN.value] is not None:
        yield TO_RANDOM.value, _without_baseline("method random", "random" in present)
    if row[TO_LABEL.value] is None and row[OWN.value] is not None and compared_to_label(row["target"]):
        yield TO_LABEL.value, "the method has no map of the target label with a value"


def _without_interval(scope: str, metric: Choice) -> str:
    entry = METRICS[metric.name]
    if entry.of_pairs and metric.args["cumulative"]:
        return "the counts of a pair hold those of the pairs before it"
    if entry.corpus_level and (not entry.of_pairs or "-" in scope) and scope != "all":
        return "of the images of a class or pair nothing is kept but their sums"
    return "there are fewer than two to resample: images, groups of images, or pairs"


def _without_baseline(name: str, present: bool) -> str:
    return f"the {name} has no value here" if present else f"the run has no {name}"
