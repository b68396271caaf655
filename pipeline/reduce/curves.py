"""The curves table: the mean curve of each metric that has one, with an interval at 95 % from resampling groups of images."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.reduce import bootstrap
from pipeline.reduce.controls import add_controls
from pipeline.score.partials import WHOLE, by_group
from pipeline.tables import schema
from pipeline.tables.wide import sums_of

KEYS = ("model", "method", "target")


def curves_of(partials: pa.Table) -> pa.Table:
    """The mean curve of each metric that has one, a row a step."""
    kinds_of: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    for (metric, model, method, target, scope, kind), values in sums_of(partials):
        kinds_of.setdefault((metric, scope, model, method, target), {})[kind] = values
    rows = []
    for (_, _, *about), kinds in kinds_of.items():
        for kind in kinds:
            column = kind.removeprefix("curve: ")
            if column != kind:
                rows += _steps({**dict(zip(KEYS, about, strict=True)), "metric": column}, kinds, kind)
    curves = pa.Table.from_pylist(rows, schema.CURVES).sort_by([(name, "ascending") for name in (*KEYS, "metric", "step")])
    return add_controls(curves, ("model", "metric", "step"))


def _steps(about: Mapping[str, str], kinds: Mapping[str, np.ndarray], kind: str) -> list[dict]:
    """The rows of one curve, from the sums of its metric."""
    n = kinds["n"][0]
    low, high = _interval(kinds, kind)
    means = kinds[kind] / WHOLE / n
    return [
        {**about, "n": int(n), "step": step, "mean": mean, "ci_low": ends[0], "ci_high": ends[1]}
        for step, (mean, *ends) in enumerate(zip(means.tolist(), low, high, strict=True))
    ]


def _interval(kinds: Mapping[str, np.ndarray], kind: str) -> tuple[list, list]:
    """The ends of the interval of each step; None where there are fewer than two groups, or images that no group counts.

    The latter come from tasks that were computed before curves were counted by group.
    """
    groups = by_group(kinds)
    counts = np.array([sums["n"][0] for sums in groups.values()])
    if len(groups) < 2 or counts.sum() < kinds["n"][0]:
        nothing = [None] * len(kinds[kind])
        return nothing, nothing
    draws = bootstrap.draws_of(list(groups)).T.astype(np.float64)
    size = (draws @ counts)[:, None]
    totals = draws @ np.stack([sums[kind] for sums in groups.values()])
    means = np.divide(totals, size * WHOLE, out=np.full(totals.shape, np.nan), where=size > 0)
    low, high = bootstrap.percentile_interval(means.T)
    return low.tolist(), high.tolist()
