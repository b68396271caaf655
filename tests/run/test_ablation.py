"""The ablations of Finer-CAM as one job: docs/finer_ablation.toml on small shards."""

from pathlib import Path

import numpy as np
import pytest

from jobs import explain
from pipeline import tables
from pipeline.maps.quantise import stored
from tests.conditioning import FACTOR, STEP, UNIT
from tests.shards import dataset

CONFIG = Path(__file__).parents[2] / "docs" / "finer_ablation.toml"
GAMMA = {"label": None, "finer": 0.6, "reverse": 1.0, **{f"gamma_{gamma}": gamma for gamma in (0.2, 0.4, 0.8, 1.0, 2.0)}}
GAMMA |= dict.fromkeys(("rank_2", "rank_3", "rank_4", "logit_distance", "weight_cosine", "max_pre", "mean_post"), 0.6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    source = dataset(out / "shards", shards=2)
    asked = ["--source", source, "--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0", "--out", str(out)]
    assert explain.main(["--config", str(CONFIG), *asked, "--metric-args", "deletion.steps=4"]) == 0
    return tables.open(str(out), "finer_ablation")


def test_every_setting_is_a_row_of_the_summary(run):
    rows = run.sql("SELECT method, target, metric, n, mean, diff_label FROM summary WHERE scope = 'all' AND target <> 'none'").to_pylist()
    found = {(row["method"], row["target"]) for row in rows}
    assert found == {(method, target) for method in ("grad_cam", "layer_cam") for target in GAMMA}
    assert {"deletion", "rd_05", "rd_10", "energy"} <= {row["metric"] for row in rows}
    assert all((row["diff_label"] is None) == (row["target"] == "label" or row["n"] == 0) for row in rows)


def test_targets_are_what_they_are_called(run):
    found = {}
    for row in run.sql("SELECT * FROM maps WHERE method = 'grad_cam' ORDER BY image_id").to_pylist():
        found.setdefault(row["target"], []).append(row)
    for target, gamma in GAMMA.items():
        assert {row["gamma"] and round(row["gamma"], 6) for row in found[target]} == {gamma}, target
    single = [[row["reference_ids"] for row in found[f"rank_{n}"]] for n in (2, 3, 4)]
    assert [sum(each, []) for each in zip(*single, strict=True)] == [row["reference_ids"] for row in found["finer"]]
    assert [row["reference_ids"] for row in found["reverse"]] == single[0]

    def maps(target: str) -> np.ndarray:
        return np.stack([stored(row) for row in found[target]])

    def steps(target: str) -> float:
        """By how much two stored maps may be apart of two that are one: half a step each, and rounding."""
        return (0.5 * STEP + FACTOR * UNIT) * (max(row["map_max"] for row in found[target]) + max(row["map_max"] for row in found["finer"]))

    finer = maps("finer")
    for joined in ("max_pre", "mean_post"):  # a maximum is no less than a mean, and the rectifier is convex
        assert (maps(joined) >= finer - steps(joined)).all() and (maps(joined) > finer + steps(joined)).any(), joined
    for target in {*GAMMA} - {"finer", "logit_distance", "weight_cosine"}:  # rules of reference may agree
        assert np.abs(maps(target) - finer).max() > steps(target), target
