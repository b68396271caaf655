"""The summary's rows of metrics that only a whole dataset has, from sums over its maps.

An interval is at 95 %, and resamples groups of images; that of a mean over pairs of classes resamples pairs. A single class or pair has a
value without an interval, since sums are all that is kept of its images.

R resamples
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.classes.pairs import Pair, running
from pipeline.families import METRICS
from pipeline.reduce import bootstrap
from pipeline.reduce.baselines import OWN, Columns, SummaryKey
from pipeline.score.partials import by_group, totals
from pipeline.spec.columns import columns_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.tables import schema
from pipeline.tables.wide import sums_of

Sums = Mapping[str, np.ndarray]  # of one metric over the maps of one scope, by kind
NONE = np.full(bootstrap.RESAMPLES, np.nan)  # a value's resamples where nothing is resampled


class MetricKey(NamedTuple):
    """A metric, under its alias, of the maps of one method and target."""

    model: str
    method: str
    target: str
    alias: str


class Totals(NamedTuple):
    """The counts of maps (or pairs) with a value, `n`, and without, `n_null`; and the value of each of the metric's columns."""

    counts: dict[str, int]
    values: dict[str, float | None]


class Estimate(NamedTuple):
    """A value, None where it is undefined, and the values that resamples give [R]."""

    value: float | None = None
    resamples: np.ndarray = NONE

    def __sub__(self, baseline: "Estimate") -> "Estimate":
        """The paired difference: the same resample on both sides."""
        value = None if self.value is None or baseline.value is None else self.value - baseline.value
        return Estimate(value, self.resamples - baseline.resamples)

    def row(self, columns: Columns) -> dict[str, float | None]:
        """The value and the ends of its interval, under the names of three columns."""
        low, high = (float(end) if np.isfinite(end) else None for end in bootstrap.percentile_interval(self.resamples))
        return dict(zip(columns, (self.value, low, high), strict=True))


def summarise_partials(partials: pa.Table, spec: ExplainSpec) -> pa.Table:
    """The summary of the dataset-level metrics of `spec`, from `partials` added up."""
    rows: dict[SummaryKey, dict] = {}
    estimates: dict[SummaryKey, Estimate] = {}
    for source, metric, sums in _sums_by_scope(partials, spec):
        if METRICS[metric.name].of_pairs:
            totals_of = pair_totals(metric, sums, spec.class_pairs)
            resamples = _pair_resamples(metric, totals_of, spec.class_pairs)
        else:
            totals_of, resamples = _scope_totals(metric, sums), _group_resamples(metric, sums)
        for scope, total in totals_of.items():
            for column, better in columns_of(metric).items():
                key = SummaryKey(source.model, source.method, source.target, column, scope)
                rows[key] = {**vars(key), **total.counts, "better": better, "stored": source.alias in spec.stored}
                estimates[key] = Estimate(total.values[column], resamples.get((scope, column), NONE))
    for key, row in rows.items():
        row |= estimates[key].row(OWN)
        for columns, baseline in key.baselines().items():
            row |= (estimates[key] - estimates.get(baseline, Estimate())).row(columns)
    return pa.Table.from_pylist([*rows.values()], schema.SUMMARY)


def _sums_by_scope(partials: pa.Table, spec: ExplainSpec) -> Iterator[tuple[MetricKey, Choice, Mapping[str, Sums]]]:
    """Each dataset-level metric of each method and target, with its sums by scope; partials of other metrics are their curves."""
    metrics = {metric.alias: metric for metric in spec.metrics if METRICS[metric.name].corpus_level}
    sums: dict[MetricKey, dict[str, dict[str, np.ndarray]]] = {}
    for (alias, model, method, target, scope, kind), values in sums_of(partials):
        if alias in metrics:
            sums.setdefault(MetricKey(model, method, target, alias), {}).setdefault(scope, {})[kind] = values
    for key, by_scope in sums.items():
        yield key, metrics[key.alias], by_scope


def _scope_totals(metric: Choice, sums: Mapping[str, Sums]) -> dict[str, Totals]:
    """Scope -> the totals of a metric."""
    return {
        scope: Totals({name: int(kinds.get(name, [0])[0]) for name in ("n", "n_null")}, totals(metric, kinds))
        for scope, kinds in sums.items()
    }


def pair_totals(metric: Choice, sums: Mapping[str, Sums], pairs: Sequence[Pair]) -> dict[str, Totals]:
    """The totals of every pair of classes; then the means over all pairs and over those with as many differing parts (E25).

    The counts of a mean are of pairs.
    """
    by_pair = _scope_totals(metric, sums)
    if metric.args["cumulative"]:
        by_pair = {scope: Totals(by_pair[scope].counts, totals(metric, kinds)) for scope, kinds in running(pairs, sums).items()}
    means = {}
    for scope, members in _pairs_by_scope(pairs).items():
        values = [by_pair[pair.name].values for pair in members if pair.name in by_pair]
        columns = {column: [value for of_pair in values if (value := of_pair[column]) is not None] for column in columns_of(metric)}
        n = max(map(len, columns.values()))
        mean_of = {column: float(np.mean(of_pairs)) if of_pairs else None for column, of_pairs in columns.items()}
        means[scope] = Totals({"n": n, "n_null": len(members) - n}, mean_of)
    return by_pair | means


def _pairs_by_scope(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Scope -> the pairs its mean is over: all, and those with as many differing parts."""
    scopes: dict[str, list[Pair]] = {"all": [*pairs]}
    for pair in sorted(pairs, key=lambda pair: len(pair.parts)):
        scopes.setdefault(f"{len(pair.parts)} part{'s' * (len(pair.parts) > 1)}", []).append(pair)
    return scopes


def _group_resamples(metric: Choice, sums: Mapping[str, Sums]) -> dict[tuple[str, str], np.ndarray]:
    """(scope, column) -> its value in each resample of the groups of images [R]; empty where there are fewer than two groups."""
    groups = by_group(sums.get("all", {}))
    if len(groups) < 2:
        return {}
    draws, resampled = bootstrap.draws_of(list(groups)).astype(np.float64), {}
    for kind in {kind for kinds in groups.values() for kind in kinds}:
        present = [kind in kinds for kinds in groups.values()]
        resampled[kind] = draws[present].T @ np.stack([kinds[kind] for kinds in groups.values() if kind in kinds])
    resamples = {("all", column): NONE.copy() for column in columns_of(metric)}
    for r in np.flatnonzero(resampled["n"]):
        for column, value in totals(metric, {kind: values[r] for kind, values in resampled.items()}).items():
            resamples["all", column][r] = np.nan if value is None else value
    return resamples


def _pair_resamples(metric: Choice, totals_of: Mapping[str, Totals], pairs: Sequence[Pair]) -> dict[tuple[str, str], np.ndarray]:
    """(scope, column) -> its mean in each resample of the pairs [R]; empty where the counts of a pair hold those of others."""
    if metric.args["cumulative"]:
        return {}
    resamples = {}
    for scope, members in _pairs_by_scope(pairs).items():
        names = [pair.name for pair in members if pair.name in totals_of]
        for column in columns_of(metric):
            values = np.array([[totals_of[name].values[column] for name in names]], np.float64)
            resamples[scope, column] = bootstrap.resampled_means(values, names)[0]
    return resamples
