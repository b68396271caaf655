"""Agreement: of methods with methods by their maps (E55), and of metrics with metrics by the order in which they put the methods (E56).

M methods, K columns of metrics, N images, R resamples
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reduce import bootstrap
from pipeline.reduce.analyses.registry import analysis
from pipeline.reduce.analyses.rows import Rows
from pipeline.reduce.bootstrap import RunningMeans
from pipeline.spec.explain_spec import CONTROLS, ExplainSpec

IMAGES_AT_ONCE = 8192  # whose values of all methods and metrics are in memory
ORDERS_AT_ONCE = 256  # images, or resamples, whose orders of the methods are compared at once
NONE = "none"


def _lacks(spec: ExplainSpec) -> str | None:
    return None if len(spec.methods) > 1 else "it compares methods, and the run has fewer than two"


@analysis("run", lacks=_lacks)
def agreement(disagreement: Rows, metrics: Rows, summary: Rows) -> Iterator[dict]:
    """Agreement of methods with methods by their maps, and of metrics with metrics by the order in which they put the methods (E55, E56).

    `methods`: the mean over images of Spearman's correlation of the two methods' maps. `metrics`: Kendall's tau-b of the methods' means under
    the two metrics, each turned so that higher is better; its interval is that of the means of the same resamples of images.
    `metrics_per_image`: the mean over images of the tau-b of the methods' values on one image, which has more power.

    Metrics of the whole dataset, and those of which neither way is better, have no part. M methods give a tau in steps of 4 / (M (M - 1)):
    `methods` says M. The controls alone can make it high, so it stands without them too. A method without a class counts for every target.
    A tau is null where one of the metrics puts all methods level.
    """
    yield from methods_with_methods(disagreement)
    better = {row["metric"]: row["better"] for row in summary.read("metric", "better").to_pylist() if row["better"]}
    columns = sorted(better.keys() & {*metrics.columns})
    if len(columns) > 1:
        yield from MetricOrders(metrics, columns, [better[column] == "lower" for column in columns]).rows()


def methods_with_methods(disagreement: Rows) -> Iterator[dict]:
    """Rows of the kind `methods`."""
    means = RunningMeans()
    for batch in disagreement.batches("image_id", "model", "target", "pairs"):
        rows = batch.to_pylist()
        values: dict[tuple, np.ndarray] = {}
        for i, row in enumerate(rows):
            for pair in row["pairs"]:
                key = (row["model"], row["target"], pair["a"], pair["b"])
                values.setdefault(key, np.full(len(rows), np.nan))[i] = pair["spearman"]
        means.add(values, [row["image_id"] for row in rows])
    for (model, target, a, b), estimate in means.estimates():
        names = {"kind": "methods", "model": model, "target": target, "a": a, "b": b}
        yield names | {"with_controls": False, "methods": None, **estimate}


class MetricOrders:
    """The orders in which columns of metrics put the methods, of all images and of single ones; `lower` says of which columns lower is better."""

    def __init__(self, metrics: Rows, columns: Sequence[str], lower: Sequence[bool]):
        self.columns, self.sign = columns, np.where(lower, -1.0, 1.0)
        self.of_methods = metrics.by_partition()
        self.means: dict[tuple[str, str], np.ndarray] = {}  # method, target -> [K], and below [K R]
        self.resamples: dict[tuple[str, str], np.ndarray] = {}
        self.images: dict[str, set[str]] = {}  # target -> ids
        for method, rows in self.of_methods.items():
            table = rows.read("image_id", "model", "target", *columns)
            self.model = table["model"][0].as_py() if table.num_rows else ""
            for target in pc.unique(table["target"]).to_pylist():
                self._add_means(method, target, table.filter(pc.equal(table["target"], target)))

    def _add_means(self, method: str, target: str, table: pa.Table) -> None:
        images, values = table["image_id"].to_numpy(), self._values(table)
        n = np.isfinite(values).sum(1)
        self.means[method, target] = np.divide(np.nansum(values, 1), n, out=np.full(len(n), np.nan), where=n > 0)
        self.resamples[method, target] = bootstrap.resampled_means(values, images)
        self.images.setdefault(target, set()).update(images)

    def _values(self, table: pa.Table) -> np.ndarray:
        """The columns of a table [K N], turned so that higher is better."""
        return np.array([table[column].cast(pa.float64()).to_numpy() for column in self.columns]) * self.sign[:, None]

    def rows(self) -> Iterator[dict]:
        """Rows of the kinds `metrics` and `metrics_per_image`."""
        targets = sorted(self.images.keys() - {NONE}) or [NONE] * (NONE in self.images)
        selections: dict[tuple[str, bool], list[str]] = {}
        for target in targets:
            methods = [method for method in self.of_methods if {(method, target), (method, NONE)} & self.means.keys()]
            plain = [method for method in methods if method not in CONTROLS]
            selections |= {(target, controls): names for controls, names in ((True, methods), (False, plain)) if len(names) > 1}
        for (target, controls), methods in selections.items():
            names = {"kind": "metrics", "model": self.model, "target": target, "with_controls": controls}
            yield from (names | row for row in self._of_means(target, methods))
        for (target, controls, a, b), estimate in self._of_images(targets, selections):
            names = {"kind": "metrics_per_image", "model": self.model, "target": target, "with_controls": controls, "a": a, "b": b}
            yield names | {"methods": len(selections[target, controls]), **estimate}

    def _of_means(self, target: str, methods: Sequence[str]) -> Iterator[dict]:
        """Each pair of columns with the tau of the methods' means, and its interval from those of the resamples."""
        keys = [(method, target) if (method, target) in self.means else (method, NONE) for method in methods]
        means = np.stack([self.means[key] for key in keys], -1)
        tau = kendall(means)
        resamples = _in_parts(np.moveaxis(np.stack([self.resamples[key] for key in keys], -1), 1, 0))
        low, high = bootstrap.percentile_interval(np.moveaxis(resamples, 0, -1))
        for k, other in combinations(range(len(self.columns)), 2):
            ends = {"mean": tau, "ci_low": low, "ci_high": high}
            both = int(np.isfinite(means[[k, other]]).all(0).sum())
            numbers = {name: float(end[k, other]) if np.isfinite(end[k, other]) else None for name, end in ends.items()}
            n = len(self.images.get(target, set()) | self.images.get(NONE, set()))
            yield {"a": self.columns[k], "b": self.columns[other], "n": n, "methods": both, **numbers}

    def _of_images(self, targets: Sequence[str], selections: Mapping[tuple[str, bool], Sequence[str]]) -> Iterator[tuple[tuple, dict]]:
        """Each selection of methods and pair of columns with the mean over images of their tau."""
        means, pairs = RunningMeans(), [*combinations(range(len(self.columns)), 2)]
        images = sorted(set().union(*self.images.values()))
        for start in range(0, len(images), IMAGES_AT_ONCE):
            chunk = images[start : start + IMAGES_AT_ONCE]
            values = self._of_chunk(targets, chunk)
            for (target, controls), methods in selections.items():
                chosen = [position for position, method in enumerate(self.of_methods) if method in methods]
                tau = _in_parts(values[target][:, :, chosen])
                names = {(k, o): (target, controls, self.columns[k], self.columns[o]) for k, o in pairs}
                means.add({names[k, o]: tau[:, k, o] for k, o in pairs}, chunk)
        yield from means.estimates()

    def _of_chunk(self, targets: Sequence[str], images: Sequence[str]) -> dict[str, np.ndarray]:
        """Target -> the values of some images [n K M], NaN where there is none."""
        found = {target: np.full((len(images), len(self.columns), len(self.of_methods)), np.nan, np.float32) for target in targets}
        ids = pa.array(images)
        for m, rows in enumerate(self.of_methods.values()):
            for batch in rows.batches("image_id", "target", *self.columns, keep=ids):
                places, own, values = pc.index_in(batch["image_id"], ids).to_numpy(), batch["target"].to_numpy(), self._values(batch)
                for target in targets:
                    usable = (own == target) | (own == NONE)
                    found[target][places[usable], :, m] = values[:, usable].T
        return found


def kendall(values: np.ndarray) -> np.ndarray:
    """Kendall's tau-b [... K K] of every two of K rows of numbers [... K M], over those of the M that both rows have (NaN: none) (E57).

    NaN where one of the rows has nothing but ties. SciPy's takes two rows a call, and there are millions of them.
    """
    i, j = np.triu_indices(values.shape[-1], 1)
    difference = values[..., i] - values[..., j]
    both = np.isfinite(difference).astype(np.float32)
    sign = np.sign(np.nan_to_num(difference, nan=0.0)).astype(np.float32)
    untied = np.abs(sign) @ both.swapaxes(-1, -2)
    size = np.sqrt(untied.astype(np.float64) * untied.swapaxes(-1, -2))
    return np.divide(sign @ sign.swapaxes(-1, -2), size, out=np.full(size.shape, np.nan), where=size > 0)


def _in_parts(values: np.ndarray) -> np.ndarray:
    """`kendall` of many orders [N K M]: [N K K]."""
    return np.concatenate([kendall(values[start : start + ORDERS_AT_ONCE]) for start in range(0, len(values), ORDERS_AT_ONCE)])
