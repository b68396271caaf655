"""The summary table: what every metric comes to for every method and target, over all images and over those of each class.

Intervals are at 95 %: Student's t, of the mean and of the mean paired difference, and exact where a metric is 0 or 1 and its mean a share.
A dataset-level metric has one value and no interval.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import scoring, storage
from pipeline.families import METRICS
from pipeline.pairs import Pair, running
from pipeline.questions import Questions
from pipeline.requests import Request
from pipeline.tables import files, schema
from pipeline.tables.metrics import counts

CONFIDENCE = 0.95


def summarised(metrics: pa.Table, partials: pa.Table, asked: Questions) -> pa.Table:
    """The summary of a whole run: `metrics` as published, `partials` added up."""
    per_image = [of_method(metrics.filter(pc.field("method") == m.alias), floor_of(metrics), asked) for m in asked.methods]
    return joined([*per_image, of_partials(partials, asked)])


def summary_of(out: str, run: str, asked: Questions, paths: tuple[Sequence[str], Sequence[str]]) -> pa.Table:
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


def of_method(metrics: pa.Table, floor: pa.Table, asked: Questions) -> pa.Table:
    """The summary of one method's rows, against the rows of `random`."""
    rows = []
    for target in sorted(pc.unique(metrics["target"]).to_pylist()):
        own = metrics.filter(pc.field("target") == target).sort_by("image_id")
        plain = metrics.filter(pc.field("target") == "label") if target not in ("label", "none") else metrics.slice(0, 0)
        names = {"model": own["model"][0].as_py(), "method": own["method"][0].as_py(), "target": target}
        scopes, group = _scopes(own)
        for metric, column, better in _columns(asked):
            values = _aligned(own, own, column)
            against = {"random": values - _aligned(own, floor, column), "label": values - _aligned(own, plain, column)}
            about = {**names, "metric": column, "better": better, "stored": metric.alias in asked.stored}
            rows += [{**about, **told} for told in _by_scope(values, against, scopes, group, METRICS[metric.name].binary)]
    return pa.Table.from_pylist(rows, schema.SUMMARY)


def _columns(asked: Questions) -> list[tuple[Request, str, str | None]]:
    """Every metric of single images with each column that it fills and which way that is better."""
    each = [metric for metric in asked.metrics if not METRICS[metric.name].total]
    return [(metric, column, better) for metric in each for column, better in scoring.columns(metric).items()]


def _scopes(own: pa.Table) -> tuple[list[str], np.ndarray]:
    """The classes that occur, and each row's place among them (-1: no label)."""
    labels = own["label"].fill_null(-1).to_numpy()
    classes = np.unique(labels[labels >= 0])
    return [str(label) for label in classes], np.where(labels >= 0, np.searchsorted(classes, labels), -1)


def _aligned(own: pa.Table, other: pa.Table, column: str) -> np.ndarray:
    """`column` of `other` for each image of `own`; NaN where it has none."""
    place = pc.index_in(own["image_id"], other["image_id"].combine_chunks())
    return other[column].combine_chunks().take(place.combine_chunks()).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _by_scope(values: np.ndarray, against: dict[str, np.ndarray], scopes: list[str], group: np.ndarray, binary: bool) -> Iterator[dict]:
    for names, places in ((["all"], np.zeros(len(values), int)), (scopes, group)):
        told = moments(values, places, len(names))
        if binary:
            told |= exact_interval(told["n"], told["mean"])
        differences = {to: moments(each, places, len(names)) for to, each in against.items()}
        size = np.bincount(places[places >= 0], minlength=len(names))
        for i, scope in enumerate(names):
            row = {"scope": scope, "n": int(told["n"][i]), "n_null": int(size[i] - told["n"][i])}
            row |= {name: _null(told[name][i]) for name in ("mean", "std", "ci_low", "ci_high")}
            for to, each in differences.items():
                row |= {f"diff_{to}{end}": _null(each[name][i]) for end, name in (("", "mean"), ("_low", "ci_low"), ("_high", "ci_high"))}
            yield row


def moments(values: np.ndarray, group: np.ndarray, groups: int) -> dict[str, np.ndarray]:
    """n, mean, std (of a sample) and the mean's t interval of `values` in each group, leaving out NaN and group -1; NaN where undefined."""
    from scipy.special import stdtrit

    kept = np.isfinite(values) & (group >= 0)
    values, group = values[kept], group[kept]
    n = np.bincount(group, minlength=groups).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, values, groups) / n
        std = np.sqrt(np.bincount(group, (values - mean[group]) ** 2, groups) / np.where(n > 1, n - 1, np.nan))
        half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * std / np.sqrt(n)
    return {"n": n, "mean": mean, "std": std, "ci_low": mean - half, "ci_high": mean + half}


def exact_interval(n: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """The interval of Clopper and Pearson (1934) of shares `mean` of `n` zeros and ones; NaN where n is 0."""
    from scipy.special import betaincinv

    ones, tail = np.rint(n * np.nan_to_num(mean)), (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(ones > 0, betaincinv(ones, n - ones + 1, tail), 0)
        high = np.where(ones < n, betaincinv(ones + 1, n - ones, 1 - tail), 1)
    return {"ci_low": np.where(n > 0, low, np.nan), "ci_high": np.where(n > 0, high, np.nan)}


def of_partials(partials: pa.Table, asked: Questions) -> pa.Table:
    """The dataset-level metrics; their differences to `random` and to `label` are those of the two values."""
    sums: dict[tuple, dict[str, dict[str, np.ndarray]]] = {}
    for (alias, model, method, target, scope, kind), values in counts(partials):
        sums.setdefault((model, alias, method, target), {}).setdefault(scope, {})[kind] = values
    rows, by_alias = [], {metric.alias: metric for metric in asked.metrics if METRICS[metric.name].total}
    for (model, alias, method, target), scopes in sums.items():
        if alias not in by_alias:
            continue  # a metric's curves
        metric = by_alias[alias]
        told = _of_pairs(metric, scopes, asked.class_pairs) if METRICS[metric.name].of_pairs else _of_scopes(metric, scopes)
        for scope, (images, values) in told.items():
            for column, better in scoring.columns(metric).items():
                row = {"model": model, "method": method, "target": target, "metric": column, "scope": scope, "mean": values[column]}
                rows.append({**row, **images, "better": better, "stored": alias in asked.stored})
    means = {tuple(row[name] for name in ("model", "metric", "scope", "method", "target")): row["mean"] for row in rows}
    for row in rows:
        of = row["model"], row["metric"], row["scope"]
        row["diff_random"] = _minus(row["mean"], means.get((*of, "random", "none")))
        row["diff_label"] = _minus(
            row["mean"], means.get((*of, row["method"], "label")) if row["target"] not in ("label", "none") else None
        )
    return pa.Table.from_pylist(rows, schema.SUMMARY)


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
            rows += [{**same, "step": step, "mean": total / scoring.WHOLE / n} for step, total in enumerate(row["values"])]
    return pa.Table.from_pylist(rows, schema.CURVES).sort_by([(name, "ascending") for name in (*of, "metric", "step")])


def _of_scopes(metric: Request, sums: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, tuple[dict, dict]]:
    """Scope -> how many images have a value and have none, and the metric's columns."""
    told = {}
    for scope, each in sums.items():
        told[scope] = {name: int(each.get(name, [0])[0]) for name in ("n", "n_null")}, scoring.totals(metric, each)
    return told


def _of_pairs(metric: Request, sums: Mapping[str, Mapping[str, np.ndarray]], pairs: Sequence[Pair]) -> dict[str, tuple[dict, dict]]:
    """The same of every pair of classes; then of all pairs and of those with as many differing parts, the means over pairs (E25).

    Of a mean, what is counted are pairs.
    """
    own = _of_scopes(metric, sums)
    summed = running(pairs, sums) if metric.args["cumulative"] else sums
    told = {scope: (own[scope][0], scoring.totals(metric, each)) for scope, each in summed.items()}
    groups = {"all": pairs} | {f"{size} part{'s' * (size > 1)}": [] for size in sorted({len(pair.parts) for pair in pairs})}
    for pair in pairs:
        groups[f"{len(pair.parts)} part{'s' * (len(pair.parts) > 1)}"].append(pair)
    means = {}
    for scope, members in groups.items():
        of = [told[pair.name][1] for pair in members if pair.name in told]
        columns = {column: [each[column] for each in of if each[column] is not None] for column in scoring.columns(metric)}
        n = max(map(len, columns.values()))
        means[scope] = {"n": n, "n_null": len(members) - n}, {c: float(np.mean(each)) if each else None for c, each in columns.items()}
    return told | means


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _null(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
