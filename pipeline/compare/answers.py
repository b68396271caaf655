"""The answers of the network in two runs: flipped predictions, accuracy, probabilities and calibration of the images in both.

N images, G scopes
"""

from typing import TYPE_CHECKING

import numpy as np

from pipeline.compare.scopes import Scopes, paired_rows, share_rows
from pipeline.reduce import bootstrap

if TYPE_CHECKING:
    import duckdb

BINS = 15  # of the calibration error (Guo et al. 2017)
_PAIRS = """
SELECT image_id, n.label, n.predicted IS DISTINCT FROM b.predicted AS flip, n.label = n.predicted AS right_now, b.label = b.predicted AS right_before,
    n.label_prob AS label_now, b.label_prob AS label_before, n.predicted_prob AS sure_now, b.predicted_prob AS sure_before
FROM now.predictions n JOIN before.predictions b USING (image_id) ORDER BY image_id
"""


def compare_answers(connection: "duckdb.DuckDBPyConnection") -> list[dict]:
    """Rows of `drift` about the predictions of both runs, over all images and those of each class."""
    pairs = connection.sql(_PAIRS).to_arrow_table()
    images = pairs["image_id"].to_numpy()
    scopes = Scopes.of(pairs["label"])
    numbers = {name: _floats(pairs[name]) for name in pairs.column_names[2:]}
    kind = {"kind": "predictions"}
    rows = [{**kind, **row} for row in share_rows("flips", numbers["flip"], scopes)]
    for quantity, column in (("accuracy", "right"), ("label_prob", "label")):
        before, now = (numbers[f"{column}_{run}"] for run in ("before", "now"))
        rows += [{**kind, **row} for row in paired_rows([quantity], before[None], now[None], images, scopes)]
    rows.append({**kind, "scope": "all", "quantity": "calibration_error", **_calibration(numbers, images)})
    return rows


def _floats(column) -> np.ndarray:
    """A column as float64; null becomes NaN."""
    import pyarrow as pa

    return column.cast(pa.float32()).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _calibration(numbers: dict[str, np.ndarray], images: np.ndarray) -> dict[str, float | int | None]:
    """The expected calibration error of both runs on the images whose label is known to both, and its change with its interval."""
    usable = np.all([np.isfinite(numbers[name]) for name in ("right_now", "right_before", "sure_now", "sure_before")], 0)
    if not usable.any():
        return {"n": 0}
    gaps = [_gaps(numbers[f"sure_{run}"][usable], numbers[f"right_{run}"][usable]) for run in ("before", "now")]
    before, now = (abs(of_run.mean(1)).sum() for of_run in gaps)
    resamples = [abs(bootstrap.resampled_means(of_run, images[usable])).sum(0) for of_run in gaps]
    low, high = bootstrap.percentile_interval(resamples[1] - resamples[0])
    return {"n": int(usable.sum()), "before": before, "now": now, "value": now - before, "ci_low": float(low), "ci_high": float(high)}


def _gaps(sure: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Right less sure in the bin of its probability, 0 in the others [bins N]: the error is the sum of the means' magnitudes."""
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return np.where(bins == np.arange(BINS)[:, None], right - sure, 0)
