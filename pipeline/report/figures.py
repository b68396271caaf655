"""The numbers of the run page: facts, the table of methods and metrics with the best marked, matrices, curves and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.refusal import counted, public
from pipeline.report.payload import metric_columns

if TYPE_CHECKING:
    import duckdb

    from pipeline.tables.read import Run

CONTROLS = ("random", "fake_cam")
Z = 1.959964  # of the normal distribution at 95 %
SUMMARY = """SELECT method, target, metric, n, n_null, mean, ci_low, ci_high, better, stored,
       diff_random, diff_random_low, diff_random_high, diff_label, diff_label_low, diff_label_high
FROM summary WHERE scope = 'all' AND target IN ('none', $target) ORDER BY method, metric"""


@dataclass(frozen=True)
class Cell:
    """One row of the summary as the table shows it; `mark` is "best", "tied" (not to be told from the best) or empty."""

    row: Mapping[str, Any]
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """Methods by metrics for one target."""

    target: str
    metrics: Sequence[str]
    better: Mapping[str, str | None]
    stored: frozenset[str]
    cells: Mapping[str, Mapping[str, Cell]]  # method -> metric -> cell
    agreement: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # metric -> metric -> Spearman's correlation over methods

    @property
    def methods(self) -> list[str]:
        """The methods, controls last."""
        return sorted(self.cells, key=lambda method: (method in CONTROLS, method))

    @property
    def differences(self) -> list[str]:
        """The baselines to which the table has differences: random, label."""
        return [
            name
            for name in ("random", "label")
            if any(cell.row[f"diff_{name}"] is not None for cells in self.cells.values() for cell in cells.values())
        ]


def targets(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """The targets of the summary, `label` first and `none` only where there is no other."""
    names = [name for (name,) in connection.execute("SELECT DISTINCT target FROM summary WHERE scope = 'all' ORDER BY ALL").fetchall()]
    return sorted([name for name in names if name != "none"] or names, key=lambda name: (name != "label", name))


def table(connection: "duckdb.DuckDBPyConnection", target: str) -> Table:
    """The table of one target: its methods, and those without a target."""
    reader = connection.execute(SUMMARY, {"target": target})
    names = [column[0] for column in reader.description]
    rows = [dict(zip(names, values, strict=True)) for values in reader.fetchall()]
    metrics = list(dict.fromkeys(sorted(row["metric"] for row in rows)))
    better = {row["metric"]: row["better"] for row in rows}
    of_metric = {metric: [row for row in rows if row["metric"] == metric] for metric in metrics}
    best = {metric: row["method"] for metric in metrics if (row := _best(of_metric[metric]))}
    ties = _ties(connection, target, {metric: method for metric, method in best.items() if metric in metric_columns(connection)})
    cells: dict[str, dict[str, Cell]] = {}
    for row in rows:
        cells.setdefault(row["method"], {})[row["metric"]] = Cell(row, _mark(row, of_metric[row["metric"]], best, ties))
    stored = frozenset(row["metric"] for row in rows if row["stored"])
    return Table(target, metrics, better, stored, cells, _agreement(cells, metrics, better))


def _best(rows: Sequence[Mapping]) -> Mapping | None:
    """The row with the best mean among the methods that are no controls; None where no way is better, or
    all are equal."""
    rivals = [row for row in rows if row["method"] not in CONTROLS and row["mean"] is not None]
    if rivals == [] or rivals[0]["better"] is None or len({row["mean"] for row in rivals}) == 1:
        return None
    return (max if rivals[0]["better"] == "higher" else min)(rivals, key=lambda row: row["mean"])


def _mark(row: Mapping, rows: Sequence[Mapping], best: Mapping[str, str], ties: Mapping[tuple[str, str], bool]) -> str:
    metric, method = row["metric"], row["method"]
    if metric not in best or method in CONTROLS or row["mean"] is None:
        return ""
    if method == best[metric]:
        return "best"
    if (metric, method) in ties:
        return "tied" if ties[metric, method] else ""
    first = next(other for other in rows if other["method"] == best[metric])
    ends = [row["ci_low"], row["ci_high"], first["ci_low"], first["ci_high"]]
    overlaps = None not in ends and ends[0] <= ends[3] and ends[2] <= ends[1]
    return "tied" if overlaps or row["mean"] == first["mean"] else ""


def _ties(connection: "duckdb.DuckDBPyConnection", target: str, best: Mapping[str, str]) -> dict[tuple[str, str], bool]:
    """Whether each method's paired difference to the best one, over the images that have both, may be zero at 95 %."""
    if not best:
        return {}
    own = ", ".join(f'any_value("{metric}") FILTER (method = $best_{i}) AS "{metric}"' for i, metric in enumerate(best))
    numbers = ", ".join(f'avg(r."{m}" - b."{m}"), stddev_samp(r."{m}" - b."{m}") / sqrt(count(r."{m}" - b."{m}"))' for m in best)
    rows = connection.execute(
        f"WITH rows AS (SELECT * FROM metrics WHERE target IN ('none', $target)), b AS (SELECT image_id, {own} FROM rows GROUP BY image_id) "
        f"SELECT method, {numbers} FROM rows r JOIN b USING (image_id) GROUP BY method",
        {"target": target, **{f"best_{i}": method for i, method in enumerate(best.values())}},
    ).fetchall()
    ties = {}
    for method, *values in rows:
        for metric, mean, error in zip(best, values[::2], values[1::2], strict=True):
            if mean is not None:
                ties[metric, method] = error is None or abs(mean) <= Z * error
    return ties


def _agreement(
    cells: Mapping[str, Mapping[str, Cell]], metrics: Sequence[str], better: Mapping[str, str | None]
) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of two metrics over the methods, better ones first in both; at least three methods, ties averaged."""
    from scipy.stats import rankdata

    ways = [metric for metric in metrics if better[metric]]
    means = {metric: np.array([_signed(cells[method].get(metric), better[metric]) for method in cells], dtype=float) for metric in ways}
    matrix: dict[str, dict[str, float]] = {}
    for one in ways:
        for other in ways:
            both = np.isfinite(means[one]) & np.isfinite(means[other])
            ranks = [rankdata(means[metric][both]) for metric in (one, other)] if both.sum() > 2 else []
            if ranks and all(np.ptp(rank) > 0 for rank in ranks):
                matrix.setdefault(one, {})[other] = float(np.corrcoef(*ranks)[0, 1])
    return matrix


def _signed(cell: Cell | None, better: str | None) -> float:
    mean = cell.row["mean"] if cell else None
    return np.nan if mean is None else mean if better == "higher" else -mean


def facts(run: "Run", connection: "duckdb.DuckDBPyConnection") -> list[tuple[str, str]]:
    """What the run is about: a term and its words."""
    manifest = run.manifest
    backbone, job, counts = manifest["backbone"], manifest["job"], manifest["counts"]
    prepare = backbone["prepare"]
    sides = " x ".join(map(str, backbone["image_size"]))
    missing = {row[0]: row[1] for row in _nulls(connection, run.tables)}
    lines = [
        ("Network", f"{backbone['name']}, {counted(backbone['num_classes'], 'classes')}, cut behind {backbone['layer']}"),
        ("Weights", public(job["weights"] or "the model's own")),
        ("Input", f"{sides} pixels, {prepare['crop']}, {prepare['interpolation']}; computed in {job['precision']}"),
        ("Source", public(_few(job["source"]))),
        ("Images", f"{counts['explained']:,} of {counts['images']:,} explained; {counts['failed']:,} failed"),
        ("Accuracy", _accuracy(connection, run.tables)),
        ("Methods", ", ".join(entry["name"] for entry in manifest["methods"]) or "none"),
        ("Targets", ", ".join(entry["name"] for entry in manifest["targets"]) or "none"),
        ("Errors", f"{counted(counts['errors'], 'rows')} in the table errors"),
        ("Missing values", "; ".join(f"{reason}: {number:,}" for reason, number in missing.items()) or "no metric lacks a value"),
        ("8-bit", _stored(manifest)),
        ("Cost", _cost(connection, manifest)),
        (
            "Run",
            f"{run.run_id}, published as {job['name']}, finished {manifest['finished'][:19].replace('T', ' ')} UTC, seed {job['seed']}",
        ),
    ]
    return [(term, words) for term, words in lines if words]


def _few(names: Sequence[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _accuracy(connection: "duckdb.DuckDBPyConnection", tables: Sequence[str]) -> str:
    if "predictions" not in tables:
        return ""
    question = "SELECT count(*), avg((label = predicted)::INT) FROM predictions WHERE label NOTNULL"
    count, share = connection.execute(question).fetchall()[0]
    return f"{100 * share:.1f} % of {count:,} labelled images are predicted as labelled" if count else "no image has a label"


def _nulls(connection: "duckdb.DuckDBPyConnection", tables: Sequence[str]) -> list[tuple[str, int]]:
    """Null metrics by reason, the most frequent first."""
    if "metrics" not in tables:
        return []
    return connection.execute(
        "SELECT reason, count(*) AS n FROM (SELECT unnest(map_values(reasons)) AS reason FROM metrics) GROUP BY reason ORDER BY n DESC, reason"
    ).fetchall()


def _stored(manifest: Mapping) -> str:
    names = [metric["name"] for metric in manifest["metrics"] if metric["stored"]]
    return f"{', '.join(names)}: computed from maps as they are stored, with 8 bits a cell" if names else ""


def _cost(connection: "duckdb.DuckDBPyConnection", manifest: Mapping) -> str:
    question = "SELECT sum(forwards), sum(backwards), sum(seconds) FROM costs"
    forwards, backwards, seconds = connection.execute(question).fetchall()[0]
    if forwards is None:
        return f"the job took {manifest['seconds']:,.0f} s"
    return f"{forwards:,} passes forward, {backwards:,} backward, {seconds:,.0f} s of work; the job took {manifest['seconds']:,.0f} s"


def classes(connection: "duckdb.DuckDBPyConnection", tables: Sequence[str]) -> list[dict]:
    """The labels, those that are predicted worst first: {class_id, name, images, accuracy, taken_for, times}."""
    if "predictions" not in tables:
        return []
    rows = connection.execute(
        "SELECT label AS class_id, any_value(label_name) AS name, count(*) AS images, avg((label = predicted)::INT) AS accuracy, "
        "mode(predicted ORDER BY predicted) FILTER (predicted != label) AS taken_for, count(*) FILTER (predicted != label) AS wrong "
        "FROM predictions WHERE label NOTNULL GROUP BY label ORDER BY accuracy, label"
    )
    names = [column[0] for column in rows.description]
    found = [dict(zip(names, values, strict=True)) for values in rows.fetchall()]
    known = {row["class_id"]: row["name"] for row in found}
    return [{**row, "taken_for": known.get(row["taken_for"]) or row["taken_for"]} for row in found]


def class_means(connection: "duckdb.DuckDBPyConnection", method: str, target: str) -> dict[str, dict[str, list]]:
    """The metrics of each class for one method and target: metric -> class -> [mean, ci_low, ci_high]."""
    rows = connection.execute(
        "SELECT metric, scope, mean, ci_low, ci_high FROM summary "
        "WHERE method = $method AND target = $target AND mean NOTNULL AND regexp_full_match(scope, '[0-9]+') ORDER BY ALL",
        {"method": method, "target": target},
    )
    means: dict[str, dict[str, list]] = {}
    for metric, scope, *numbers in rows.fetchall():
        means.setdefault(metric, {})[scope] = [_rounded(number) for number in numbers]
    return means


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")


def curves(connection: "duckdb.DuckDBPyConnection", tables: Sequence[str]) -> list[dict]:
    """The mean curves of metrics: {metric, target, method, means}."""
    if "curves" not in tables:
        return []
    rows = connection.execute(
        "SELECT metric, target, method, list(mean ORDER BY step) FROM curves GROUP BY metric, target, method ORDER BY ALL"
    ).fetchall()
    return [
        {"metric": metric, "target": target, "method": method, "means": [_finite(mean) for mean in means]}
        for metric, target, method, means in rows
        if len(means) > 1
    ]


def points(connection: "duckdb.DuckDBPyConnection", tables: Sequence[Table]) -> list[dict]:
    """Every method and target with its metrics (mean and interval) and costs per image, for the scatter."""
    costs = {
        payer: {
            "seconds per image": [_finite(seconds / images)] * 3,
            "passes per image": [_finite((forwards + backwards) / images)] * 3,
        }
        for payer, images, forwards, backwards, seconds in connection.execute(
            "SELECT payer, images, coalesce(forwards, 0), coalesce(backwards, 0), coalesce(seconds, 0) FROM costs WHERE images > 0"
        ).fetchall()
    }
    return [
        {
            "method": method,
            "target": of_target.target,
            "control": method in CONTROLS,
            "values": {
                **costs.get(method, {}),
                **{
                    metric: [_finite(cell.row[name]) for name in ("mean", "ci_low", "ci_high")]
                    for metric, cell in of_target.cells[method].items()
                    if cell.row["mean"] is not None
                },
            },
        }
        for of_target in tables
        for method in of_target.methods
    ]


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
