"""The summary table: what every metric comes to for every method and target, over all images and over those of each class.

Intervals are at 95 %: from the bootstrap over images, of the mean and of the mean paired difference, and exact where a metric is 0 or 1
and its mean a share. Where a value belongs to the whole dataset, groups of images are resampled, and where it is a mean over pairs of
classes, pairs: their counts are all that is kept. A single class or pair has a value of that kind without an interval.

C columns of metrics, N images, G scopes
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.classes.pairs import Pair, running
from pipeline.families import METRICS
from pipeline.reduce import bootstrap
from pipeline.score.partials import WHOLE, by_group, totals
from pipeline.spec.columns import binary_columns, columns_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.tables import files, schema
from pipeline.tables.wide import counts

UNKNOWN = np.full(bootstrap.RESAMPLES, np.nan)  # where nothing is resampled
ENDS = {"": "mean", "_low": "ci_low", "_high": "ci_high"}


def summarised(metrics: pa.Table, partials: pa.Table, asked: ExplainSpec) -> pa.Table:
    """The summary of a whole run: `metrics` as published, `partials` added up."""
    per_image = [of_method(metrics.filter(pc.field("method") == m.alias), floor_of(metrics), asked) for m in asked.methods]
    return joined([*per_image, of_partials(partials, asked)])


def summary_of(out: str, run: str, asked: ExplainSpec, paths: tuple[Sequence[str], Sequence[str]]) -> pa.Table:
    """The summary of one method of `run`, from the files of its metrics and from those of the control `random`."""
    own, floor = (pa.concat_tables([_published(out, run, path) for path in sorted(each)]) for each in paths)
    return of_method(own, floor, asked)


def _published(out: str, run: str, path: str) -> pa.Table:
    """A published file of `metrics` with its method, which only its folder tells."""
    rows = files.read_parquet(storage.join(out, "runs", run, path))
    method = path.split("/")[1].partition("=")[2]
    return rows.add_column(2, "method", pa.array([method] * rows.num_rows, pa.string()))


def joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Parts of a summary as one, in a fixed order."""
    return pa.concat_tables(parts).sort_by([(name, "ascending") for name in ("method", "target", "metric", "scope")])


def floor_of(metrics: pa.Table) -> pa.Table:
    """The rows of the control `random`."""
    return metrics.filter(pc.field("method") == "random")


def of_method(metrics: pa.Table, floor: pa.Table, asked: ExplainSpec) -> pa.Table:
    """The summary of one method's rows, against the rows of `random`."""
    rows, columns = [], _columns(asked)
    binary = np.array([column in binary_columns(metric) for metric, column, _ in columns], bool)
    for target in sorted(pc.unique(metrics["target"]).to_pylist()):
        own = metrics.filter(pc.field("target") == target).sort_by("image_id")
        plain = metrics.filter(pc.field("target") == "label") if target not in ("label", "none") else metrics.slice(0, 0)
        values = _aligned(own, own, columns)
        values = np.stack([values, values - _aligned(own, floor, columns), values - _aligned(own, plain, columns)])
        names = {"model": own["model"][0].as_py(), "method": own["method"][0].as_py(), "target": target}
        about = [{**names, "metric": column, "better": better, "stored": m.alias in asked.stored} for m, column, better in columns]
        images = own["image_id"].to_numpy()
        for scopes, group in ((["all"], np.zeros(len(images), int)), _scopes(own)):
            told = _told(values, binary, images, group, len(scopes))
            rows += [{**same, "scope": scope, **_row(told, c, i)} for i, scope in enumerate(scopes) for c, same in enumerate(about)]
    return pa.Table.from_pylist(rows, schema.SUMMARY)


def _columns(asked: ExplainSpec) -> list[tuple[Choice, str, str | None]]:
    """Every metric of single images with each column that it fills and which way that is better."""
    each = [metric for metric in asked.metrics if not METRICS[metric.name].corpus_level]
    return [(metric, column, better) for metric in each for column, better in columns_of(metric).items()]


def _scopes(own: pa.Table) -> tuple[list[str], np.ndarray]:
    """The classes that occur, and each row's place among them (-1: no label)."""
    labels = own["label"].fill_null(-1).to_numpy()
    classes = np.unique(labels[labels >= 0])
    return [str(label) for label in classes], np.where(labels >= 0, np.searchsorted(classes, labels), -1)


def _aligned(own: pa.Table, other: pa.Table, columns: Sequence[tuple[Choice, str, str | None]]) -> np.ndarray:
    """The columns of `other` for each image of `own` [C N]; NaN where it has none."""
    place = pc.index_in(own["image_id"], other["image_id"].combine_chunks()).combine_chunks()
    found = (other[column].combine_chunks().take(place).cast(pa.float64()).to_numpy(zero_copy_only=False) for _, column, _ in columns)
    return np.array([*found]).reshape(len(columns), own.num_rows)


def _told(values: np.ndarray, binary: np.ndarray, images: np.ndarray, group: np.ndarray, groups: int) -> dict[str, np.ndarray]:
    """What the summary tells of columns and of their differences to `random` and to `label` [3 C N] in each group: [3 C G] each, by name."""
    found = moments(np.concatenate(values), images, group, groups)
    told = {name: each.reshape(*values.shape[:2], groups) for name, each in found.items()}
    for end, each in exact_interval(told["n"][0, binary], told["mean"][0, binary]).items():
        told[end][0, binary] = each
    return told | {"n_null": np.bincount(group[group >= 0], minlength=groups) - told["n"]}


def _row(told: Mapping[str, np.ndarray], column: int, group: int) -> dict:
    """The numbers of one column in one group, by their names in the summary."""
    row = {name: int(told[name][0, column, group]) for name in ("n", "n_null")}
    row |= {name: _null(told[name][0, column, group]) for name in ("mean", "std", "ci_low", "ci_high")}
    for i, to in enumerate(("random", "label"), 1):
        row |= {f"diff_{to}{end}": _null(told[name][i, column, group]) for end, name in ENDS.items()}
    return row


def moments(values: np.ndarray, images: Sequence[str], group: np.ndarray, groups: int) -> dict[str, np.ndarray]:
    """n, mean, std (of a sample) and the mean's bootstrap interval of each column of `values` [C N] in each group: [C groups] each.

    NaN among the values and the group -1 are left out; NaN where undefined, an interval where n is less than two.
    """
    found = {name: np.full((len(values), groups), np.nan) for name in ("n", "mean", "std", "ci_low", "ci_high")}
    for c, kept in enumerate(np.isfinite(values) & (group >= 0)):
        mine, of = values[c, kept], group[kept]
        n = np.bincount(of, minlength=groups).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(of, mine, groups) / n
            std = np.sqrt(np.bincount(of, (mine - mean[of]) ** 2, groups) / np.where(n > 1, n - 1, np.nan))
        found["n"][c], found["mean"][c], found["std"][c] = n, mean, std
    some = found["n"].any(1)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(groups + 1))
    for i in range(groups if some.any() else 0):
        mine = order[edges[i] : edges[i + 1]]
        resampled = bootstrap.means(values[np.ix_(some, mine)], images[mine])
        found["ci_low"][some, i], found["ci_high"][some, i] = bootstrap.interval(resampled)
    return found


def exact_interval(n: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """The interval of Clopper and Pearson (1934) of shares `mean` of `n` zeros and ones; NaN where n is 0."""
    from scipy.special import betaincinv

    ones, tail = np.rint(n * np.nan_to_num(mean)), (1 - bootstrap.CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(ones > 0, betaincinv(ones, n - ones + 1, tail), 0)
        high = np.where(ones < n, betaincinv(ones + 1, n - ones, 1 - tail), 1)
    return {"ci_low": np.where(n > 0, low, np.nan), "ci_high": np.where(n > 0, high, np.nan)}


def of_partials(partials: pa.Table, asked: ExplainSpec) -> pa.Table:
    """The dataset-level metrics; their differences to `random` and to `label` are those of the two values."""
    sums: dict[tuple, dict[str, dict[str, np.ndarray]]] = {}
    for (alias, model, method, target, scope, kind), values in counts(partials):
        sums.setdefault((model, alias, method, target), {}).setdefault(scope, {})[kind] = values
    rows, by_alias = [], {metric.alias: metric for metric in asked.metrics if METRICS[metric.name].corpus_level}
    found: dict[tuple, tuple[float | None, np.ndarray]] = {}  # each row's value, and what it comes to in each resample
    for (model, alias, method, target), scopes in sums.items():
        if alias not in by_alias:
            continue  # a metric's curves
        metric = by_alias[alias]
        if METRICS[metric.name].of_pairs:
            told = _of_pairs(metric, scopes, asked.class_pairs)
            resampled = _resampled_pairs(metric, told, asked.class_pairs)
        else:
            told, resampled = _of_scopes(metric, scopes), _resampled_groups(metric, scopes)
        for scope, (images, values) in told.items():
            for column, better in columns_of(metric).items():
                row = {"model": model, "method": method, "target": target, "metric": column, "scope": scope, "mean": values[column]}
                rows.append({**row, **images, "better": better, "stored": alias in asked.stored})
                found[model, column, scope, method, target] = values[column], resampled.get((scope, column), UNKNOWN)
    for row in rows:
        of = row["model"], row["metric"], row["scope"]
        own = found[*of, row["method"], row["target"]]
        row |= _ends("ci", own[1])
        plain = (row["method"], "label") if row["target"] not in ("label", "none") else None
        for name, other in (("diff_random", ("random", "none")), ("diff_label", plain)):
            value, resampled = found.get((*of, *(other or ())), (None, UNKNOWN))
            row |= {name: _minus(own[0], value), **_ends(name, own[1] - resampled)}
    return pa.Table.from_pylist(rows, schema.SUMMARY)


def _resampled_groups(metric: Choice, scopes: Mapping[str, Mapping[str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    """(scope, column) -> what it comes to in each resample of the groups of images [R]; nothing where there are fewer than two."""
    groups = by_group(scopes.get("all", {}))
    if len(groups) < 2:
        return {}
    draws, sums = bootstrap.drawn(list(groups)).astype(np.float64), {}
    for kind in {kind for each in groups.values() for kind in each}:
        have = [kind in each for each in groups.values()]
        sums[kind] = draws[have].T @ np.stack([each[kind] for each in groups.values() if kind in each])
    found = {("all", column): UNKNOWN.copy() for column in columns_of(metric)}
    for r in np.flatnonzero(sums["n"]):
        for column, value in totals(metric, {kind: values[r] for kind, values in sums.items()}).items():
            found["all", column][r] = np.nan if value is None else value
    return found


def _resampled_pairs(metric: Choice, told: Mapping[str, tuple[dict, dict]], pairs: Sequence[Pair]) -> dict[tuple[str, str], np.ndarray]:
    """The same of each mean over pairs in each resample of its pairs; nothing where each pair's counts hold those of others."""
    if metric.args["cumulative"]:
        return {}
    found = {}
    for scope, members in _groups(pairs).items():
        names = [pair.name for pair in members if pair.name in told]
        for column in columns_of(metric):
            values = np.array([[told[name][1][column] for name in names]], np.float64)
            found[scope, column] = bootstrap.means(values, names)[0]
    return found


def _ends(name: str, resampled: np.ndarray) -> dict[str, float | None]:
    """The interval of what is called `name`."""
    return {f"{name}{end}": _null(each) for end, each in zip(("_low", "_high"), bootstrap.interval(resampled), strict=True)}


def curves_of(partials: pa.Table) -> pa.Table:
    """The mean curve of each metric that has one, a row a step."""
    of = ("model", "method", "target")
    told = partials.to_pylist()
    images = {tuple(row[name] for name in ("metric", "scope", *of)): row["values"][0] for row in told if row["kind"] == "n"}
    rows = []
    for row in told:
        column = row["kind"].removeprefix("curve: ")
        if column != row["kind"]:
            n = images[tuple(row[name] for name in ("metric", "scope", *of))]
            same = {**{name: row[name] for name in of}, "metric": column, "n": int(n)}
            rows += [{**same, "step": step, "mean": total / WHOLE / n} for step, total in enumerate(row["values"])]
    return pa.Table.from_pylist(rows, schema.CURVES).sort_by([(name, "ascending") for name in (*of, "metric", "step")])


def _of_scopes(metric: Choice, sums: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, tuple[dict, dict]]:
    """Scope -> how many images have a value and have none, and the metric's columns."""
    told = {}
    for scope, each in sums.items():
        told[scope] = {name: int(each.get(name, [0])[0]) for name in ("n", "n_null")}, totals(metric, each)
    return told


def _of_pairs(metric: Choice, sums: Mapping[str, Mapping[str, np.ndarray]], pairs: Sequence[Pair]) -> dict[str, tuple[dict, dict]]:
    """The same of every pair of classes; then of all pairs and of those with as many differing parts, the means over pairs (E25).

    Of a mean, what is counted are pairs.
    """
    own = _of_scopes(metric, sums)
    summed = running(pairs, sums) if metric.args["cumulative"] else sums
    told = {scope: (own[scope][0], totals(metric, each)) for scope, each in summed.items()}
    means = {}
    for scope, members in _groups(pairs).items():
        of = [told[pair.name][1] for pair in members if pair.name in told]
        columns = {column: [each[column] for each in of if each[column] is not None] for column in columns_of(metric)}
        n = max(map(len, columns.values()))
        means[scope] = {"n": n, "n_null": len(members) - n}, {c: float(np.mean(each)) if each else None for c, each in columns.items()}
    return told | means


def _groups(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Scope -> the pairs it is the mean of."""
    found = {"all": [*pairs]} | {f"{size} part{'s' * (size > 1)}": [] for size in sorted({len(pair.parts) for pair in pairs})}
    for pair in pairs:
        found[f"{len(pair.parts)} part{'s' * (len(pair.parts) > 1)}"].append(pair)
    return found


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
