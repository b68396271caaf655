"""AggAtt: mean maps of the images that a metric calls best, middling and worst (Rao, Boehle, Schiele 2022; E64)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from pipeline.reduce import bootstrap
from pipeline.reduce.analyses.images import read_maps
from pipeline.reduce.analyses.mean_maps import MapSum
from pipeline.reduce.analyses.registry import analysis
from pipeline.reduce.analyses.rows import Rows
from pipeline.refusal import choose
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.tables.identity import digest

EDGES = (0, 0.02, 0.05, 0.5, 0.95, 0.98, 1)  # shares of the images, the best first
EXAMPLES = 5
COLOUR_QUANTILE = 0.995

Key = tuple[str, str, int]  # target, metric, number of a bin
Grid = tuple[str, tuple[int, ...]]  # how a map becomes an image, and its cells


class Bin(NamedTuple):
    """The images [n] between two shares of a ranking, and their scores [n], best first."""

    number: int
    images: np.ndarray
    scores: np.ndarray


def _lacks(spec: ExplainSpec, metric: Sequence[str]) -> str | None:
    if not spec.columns:
        return "it sorts images by a metric, and the run has none of single images; add --metrics energy"
    if metric == ("energy",) and "energy" not in spec.columns:
        return f"the run lacks the metric energy; name others with --analysis-args aggatt.metric={next(iter(spec.columns))}"
    for name in metric:
        choose(name, spec.columns, "column of a metric")
    return None


@analysis("method", lacks=_lacks)
def aggatt(maps: Rows, metrics: Rows, summary: Rows, *, metric: tuple[str, ...] = ("energy",)) -> Iterator[dict]:
    """Mean maps of the images that a metric calls best, middling and worst (AggAtt, E64).

    Images with a value are sorted, the best first (the highest where neither way is better), and cut at 0, 2, 5, 50, 95, 98 and 100 % of
    their number, rounded down. A bin without images has no row. Images of one value stand in an order drawn from their ids.

    The mean is of the maps' positive parts as they are, not brought to [0, 1], on the grid that they are stored on: maps that say more weigh
    more. `colour_max` is the 99.5th percentile of the cells of all bins: one colour scale for all of them.
    """
    better = {row["metric"]: row["better"] for row in summary.read("metric", "better").to_pylist()}
    scores = metrics.read("image_id", "target", *metric)
    bins: dict[tuple[str, str], list[Bin]] = {}
    for target in sorted(pc.unique(scores["target"]).to_pylist()):
        of_target = scores.filter(pc.equal(scores["target"], target))
        images = of_target["image_id"].to_numpy()
        for name in metric:
            bins[target, name] = bins_of(images, of_target[name].cast("float64").to_numpy(), better.get(name) == "lower")
    sums, names = sum_maps(maps, bins)
    for (target, name), of_ranking in bins.items():
        grids = [(one, *grid) for one in of_ranking for grid in sorted(sums.get((target, name, one.number), {}).items())]
        cells = [of_grid.total.ravel() / of_grid.n for _, _, of_grid in grids]
        colour_max = float(np.quantile(np.concatenate(cells), COLOUR_QUANTILE)) if cells else None
        for one, (render, _), of_grid in grids:
            found = {**names, "target": target, "metric": name, "render": render, "colour_max": colour_max}
            yield {**found, **_numbers(one), **of_grid.columns()}


def sum_maps(maps: Rows, bins: Mapping[tuple[str, str], Sequence[Bin]]) -> tuple[dict[Key, dict[Grid, MapSum]], dict[str, str]]:
    """The sums of the maps' positive parts in each bin, by grid, and the model and method that they are of."""
    bins_by_image: dict[tuple[str, str], list[Key]] = {}
    for (target, metric), of_ranking in bins.items():
        for one in of_ranking:
            for image in one.images:
                bins_by_image.setdefault((image, target), []).append((target, metric, one.number))
    sums: dict[Key, dict[Grid, MapSum]] = {}
    names: dict[str, str] = {}
    for image, stored in read_maps(maps):
        names = {"model": stored.model, "method": stored.method}
        for key in bins_by_image.get((image, stored.target), ()):
            grid = (stored.render, stored.levels.shape)
            sums.setdefault(key, {}).setdefault(grid, MapSum(np.zeros(stored.levels.shape))).add(np.maximum(stored.cells, 0))
    return sums, names


def _numbers(one: Bin) -> dict:
    """The columns of a bin that its scores decide."""
    resamples = bootstrap.resampled_means(one.scores[None], one.images)
    ends = (float(end[0]) if np.isfinite(end[0]) else None for end in bootstrap.percentile_interval(resamples))
    examples = sorted(one.images, key=lambda name: digest(["example", name]))[:EXAMPLES]
    shares = {"bin": one.number, "low": EDGES[one.number], "high": EDGES[one.number + 1]}
    return {**shares, "mean": float(one.scores.mean()), **dict(zip(("ci_low", "ci_high"), ends, strict=True)), "examples": examples}


def bins_of(images: np.ndarray, scores: np.ndarray, lower: bool) -> list[Bin]:
    """The bins of images [N] by their scores [N], of which NaN is left out; `lower` scores are better, or else higher ones."""
    finite = np.isfinite(scores)
    images, scores = images[finite], scores[finite]
    order = np.lexsort((np.array([digest(["aggatt", name]) for name in images]), scores if lower else -scores))
    edges = [int(share * len(images)) for share in EDGES]
    bins = [
        Bin(i, images[order[start:stop]], scores[order[start:stop]]) for i, (start, stop) in enumerate(zip(edges, edges[1:], strict=False))
    ]
    return [one for one in bins if len(one.images)]
