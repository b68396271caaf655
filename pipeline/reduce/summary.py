"""The summary table: a row for every metric, method and target, over all images and over those of each class.

Intervals are at 95 %. Metrics of single images: from the bootstrap over images, of the mean and of the mean paired difference; exact where
a metric is 0 or 1 and its mean a share. Metrics of the whole dataset: see `corpus`.

C columns of metrics, N images, G scopes
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.families import METRICS
from pipeline.reduce.baselines import OWN, TO_LABEL, TO_RANDOM, compared_to_label
from pipeline.reduce.controls import add_controls, add_reasons
from pipeline.reduce.corpus import summarise_partials
from pipeline.reduce.moments import exact_interval, moments
from pipeline.spec.columns import binary_columns, columns_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.tables import files, schema
from pipeline.tables.lake.location import Location


class MetricColumn(NamedTuple):
    """A column of `metrics`: which way it is better, whether its values are 0 or 1, and whether they are of the maps as stored."""

    name: str
    better: str | None
    binary: bool
    stored: bool


def summarise(metrics: pa.Table, partials: pa.Table, spec: ExplainSpec) -> pa.Table:
    """The summary of a whole run: `metrics` as published, `partials` added up."""
    control = metrics.filter(pc.field("method") == "random")
    summaries = [summarise_method(metrics.filter(pc.field("method") == method.alias), control, spec) for method in spec.methods]
    return concat_summaries([*summaries, summarise_partials(partials, spec)], spec)


def summarise_files(location: Location, spec: ExplainSpec, paths: tuple[Sequence[str], Sequence[str]]) -> pa.Table:
    """The summary of one method of a run, from the files of its metrics and from those of the control `random`."""
    own, control = (pa.concat_tables([_read_published(location, path) for path in sorted(of_method)]) for of_method in paths)
    return summarise_method(own, control, spec)


def _read_published(location: Location, path: str) -> pa.Table:
    """The rows of a published file of `metrics` with their method, which only the folder's name holds."""
    rows = files.read_parquet(location.url(path))
    method = path.split("/")[1].partition("=")[2]
    return rows.add_column(2, "method", pa.array([method] * rows.num_rows, pa.string()))


def concat_summaries(summaries: Sequence[pa.Table], spec: ExplainSpec) -> pa.Table:
    """Parts of a summary as one table, in a fixed order, with the numbers of the controls and the reasons of nulls."""
    rows = pa.concat_tables(summaries).sort_by([(name, "ascending") for name in ("method", "target", "metric", "scope")])
    return add_reasons(add_controls(rows, ("model", "metric", "scope")), spec)


def summarise_method(metrics: pa.Table, control: pa.Table, spec: ExplainSpec) -> pa.Table:
    """The summary of the metrics of single images of one method, against those of the control `random`."""
    rows, columns = [], _columns(spec)
    for target in sorted(pc.unique(metrics["target"]).to_pylist()):
        own = metrics.filter(pc.field("target") == target).sort_by("image_id")
        plain = metrics.filter(pc.field("target") == "label") if compared_to_label(target) else metrics.slice(0, 0)
        values = _align(own, own, columns)
        values = np.stack([values, values - _align(own, control, columns), values - _align(own, plain, columns)])
        maps = {"model": own["model"][0].as_py(), "method": own["method"][0].as_py(), "target": target}
        images = own["image_id"].to_numpy()
        for scopes, group in ((["all"], np.zeros(len(images), int)), _classes(own)):
            statistics = _statistics(values, columns, images, group, len(scopes))
            for i, scope in enumerate(scopes):
                for c, column in enumerate(columns):
                    row = {**maps, "metric": column.name, "scope": scope, "better": column.better, "stored": column.stored}
                    rows.append(row | _numbers(statistics, c, i))
    return pa.Table.from_pylist(rows, schema.SUMMARY)


def _columns(spec: ExplainSpec) -> list[MetricColumn]:
    """The columns that metrics of single images fill."""
    return [
        MetricColumn(name, better, name in binary_columns(metric), metric.alias in spec.stored)
        for metric in spec.metrics
        if not METRICS[metric.name].corpus_level
        for name, better in columns_of(metric).items()
    ]


def _classes(own: pa.Table) -> tuple[list[str], np.ndarray]:
    """The classes that occur, and the position of each row's class among them (-1: no label)."""
    labels = own["label"].fill_null(-1).to_numpy()
    classes = np.unique(labels[labels >= 0])
    return [str(label) for label in classes], np.where(labels >= 0, np.searchsorted(classes, labels), -1)


def _align(own: pa.Table, other: pa.Table, columns: Sequence[MetricColumn]) -> np.ndarray:
    """The columns of `other` for each image of `own` [C N]; NaN where `other` lacks the image or its value."""
    row_of = pc.index_in(own["image_id"], other["image_id"].combine_chunks()).combine_chunks()
    values = (other[c.name].combine_chunks().take(row_of).cast(pa.float64()).to_numpy(zero_copy_only=False) for c in columns)
    return np.array([*values]).reshape(len(columns), own.num_rows)


def _statistics(
    values: np.ndarray, columns: Sequence[MetricColumn], images: np.ndarray, group: np.ndarray, groups: int
) -> dict[str, np.ndarray]:
    """Statistics by name, [3 C G] each, of columns and of their differences to `random` and to `label` [3 C N] in each group."""
    statistics = moments(np.concatenate(values), images, group, groups)
    statistics = {name: numbers.reshape(*values.shape[:2], groups) for name, numbers in statistics.items()}
    binary = np.array([column.binary for column in columns], bool)
    for name, ends in exact_interval(statistics["n"][0, binary], statistics["mean"][0, binary]).items():
        statistics[name][0, binary] = ends
    return statistics | {"n_null": np.bincount(group[group >= 0], minlength=groups) - statistics["n"]}


def _numbers(statistics: dict[str, np.ndarray], column: int, group: int) -> dict[str, int | float | None]:
    """The numbers of one column in one group, by the summary's columns."""
    row: dict[str, int | float | None] = {name: int(statistics[name][0, column, group]) for name in ("n", "n_null")}
    row["std"] = _finite(statistics["std"][0, column, group])
    for i, names in enumerate((OWN, TO_RANDOM, TO_LABEL)):
        row |= {name: _finite(statistics[of][i, column, group]) for name, of in zip(names, OWN, strict=True)}
    return row


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
