"""What the maps of a run show beyond one number each: class sensitivity, background, boxes, mean maps and AggAtt; by hand, and against the
metrics of the same stored maps."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from jobs import explain, score
from pipeline import tables
from pipeline.maps.quantise import stored as cells_of
from pipeline.maps.render import unit
from pipeline.reduce import bootstrap
from pipeline.reduce.analyses.aggatt import bins_of
from pipeline.reduce.analyses.background import background
from pipeline.reduce.analyses.class_sensitivity import class_sensitivity
from pipeline.reduce.analyses.map_boxes import map_boxes
from pipeline.reduce.analyses.mean_maps import mean_maps
from tests.conditioning import DOUBLE
from tests.jobs import job
from tests.reduce.stored_maps import image, stored

BOX = np.array([[0.0, 0.0, 0.5, 1.0]])
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    """A run with every analysis, scored afterwards, so that metrics and analyses see the same stored maps."""
    out = str(tmp_path_factory.mktemp("run"))
    settings = {"methods": ("grad_cam", "eigen_cam", "gradient"), "targets": ("label", "second", "predicted")}
    explain.run(job(source, out, **settings, analyses=("all",)))
    assert score.main(["--out", out, "--metrics", "energy", "loc_error", "ad", "mass_accuracy"]) == 0
    return tables.open(out)


# class sensitivity


def sensitivity(*maps, **settings) -> dict[tuple[str, str, str], tuple]:
    rows = class_sensitivity([image(*maps)], **settings)
    return {(row["method"], row["a"], row["b"]): (row["spearman"], row["ssim"]) for row in rows}


def test_the_label_meets_every_other_target_by_rank_and_by_structure():
    a, b, c = (stored(RNG.random((4, 4)), target=target, class_id=i) for i, target in enumerate(("label", "least", "second")))
    found = sensitivity(a, b, c)
    assert found.keys() == {("a", "label", "least"), ("a", "label", "second")}
    for other in (b, c):
        spearman, ssim = found["a", "label", other.target]
        np.testing.assert_allclose(spearman, spearmanr(a.levels.ravel(), other.levels.ravel()).statistic, **DOUBLE)
        drawn = [unit(one.drawn((32, 32))).astype(float) for one in (a, other)]
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        np.testing.assert_allclose(ssim, structural_similarity(*drawn, **settings), **DOUBLE)
    assert sensitivity(a, b, ssim=False)["a", "label", "least"][1] is None


def test_class_sensitivity_by_hand():
    found = sensitivity(stored([[1, 2], [3, 4]]), stored([[2, 1], [4, 3]], target="second", class_id=1))
    assert found["a", "label", "second"][0] == pytest.approx(0.6, rel=1e-15)


def test_a_method_without_a_class_is_wholly_insensitive():
    cells = RNG.random((4, 4))
    maps = stored(cells), stored(-cells, target="second", class_id=1), stored(cells, "eigen", "none", None)
    assert sensitivity(*maps)["eigen", "label", "second"] == pytest.approx((1, 1), abs=1e-12)


def test_two_targets_that_ask_the_same_are_not_compared():
    cells = RNG.random((4, 4))
    assert not sensitivity(stored(cells), stored(cells, target="predicted"))
    assert sensitivity(stored(cells), stored(cells, target="finer", others=(1, 2))).keys() == {("a", "label", "finer")}
    texts = stored(cells, target="text:wing", class_id=None), stored(cells, target="text:bill", class_id=None)
    assert sensitivity(stored(cells), *texts).keys() == {("a", "label", "text:bill"), ("a", "label", "text:wing")}


def test_of_pairs_the_own_map_meets_those_of_the_partners():
    names = {"pairs#own": (0, ()), "pairs#other_1": (1, ()), "pairs#other_2": (2, ()), "pairs#finer_1": (0, (1,))}
    maps = [stored(RNG.random((4, 4)), target=name, class_id=own, others=others) for name, (own, others) in names.items()]
    assert sensitivity(*maps).keys() == {("a", "pairs#own", "pairs#other_1"), ("a", "pairs#own", "pairs#other_2")}


def test_a_constant_map_is_null():
    assert sensitivity(stored(RNG.random((4, 4))), stored(np.ones((4, 4)), target="second", class_id=1)) == {
        ("a", "label", "second"): (None, None)
    }


def test_the_floor_is_noise_against_the_noise_of_the_next_image_in_any_order():
    images = [image(stored(RNG.random((8, 8)), "random", "none", None), name=f"i{i}") for i in range(4)]
    rows = [*class_sensitivity(images)]
    assert [*class_sensitivity(reversed(images))] == rows
    assert [(row["image_id"], row["method"], row["a"], row["b"]) for row in rows] == [(f"i{i}", "random", "none", "none") for i in range(3)]
    for row, (one, other) in zip(rows, pairwise(images), strict=True):
        expected = spearmanr(one.maps[0].levels.ravel(), other.maps[0].levels.ravel()).statistic
        np.testing.assert_allclose(row["spearman"], expected, **DOUBLE)


def test_means_over_images_have_the_bootstraps_interval(run):
    rows = run.sql("SELECT * FROM class_sensitivity WHERE method = 'grad_cam' AND b = 'second' ORDER BY image_id").to_pylist()
    [mean] = run.sql(
        "SELECT * FROM class_sensitivity_summary WHERE method = 'grad_cam' AND b = 'second' AND scope = 'all' AND number = 'ssim'"
    ).to_pylist()
    values = np.array([[np.nan if row["ssim"] is None else row["ssim"] for row in rows]])
    low, high = bootstrap.percentile_interval(bootstrap.resampled_means(values, [row["image_id"] for row in rows]))
    assert (mean["n"], mean["n_null"]) == (np.isfinite(values).sum(), np.isnan(values).sum())
    np.testing.assert_allclose([mean["mean"], mean["ci_low"], mean["ci_high"]], [np.nanmean(values), low[0], high[0]], **DOUBLE)


def test_the_counts_of_the_classes_add_up_to_those_of_all(run):
    for table in ("class_sensitivity_summary", "background_summary"):
        keys = "method, number, " + ("a, b" if table.startswith("class") else "target")
        question = f"SELECT sum(n) FILTER (scope <> 'all') AS parts, sum(n) FILTER (scope = 'all') AS whole FROM {table} GROUP BY {keys}"
        rows = run.sql(question).to_pylist()
        assert rows and all(row["parts"] == row["whole"] for row in rows)


# background


def test_what_lies_outside_the_box_by_hand():
    half = stored([[1.0, 3.0], [1.0, 3.0]], render="area")  # above its floor everything lies on the right
    plain = stored([[0.0, 3.0], [1.0, 0.0]], "b", render="area")
    found = {row["method"]: row for row in background([image(half, plain, boxes=BOX)])}
    assert {method: row["outside"] for method, row in found.items()} == pytest.approx({"a": 1.0, "b": 0.75}, abs=0.002)
    assert {row["area"] for row in found.values()} == {0.5}


def test_nothing_for_the_target_is_null_and_no_box_no_row():
    assert [row["outside"] for row in background([image(stored([[-1.0, -2.0]]), boxes=BOX)])] == [None]
    assert [*background([image(stored([[1.0, 2.0]]))])] == []


def test_background_is_what_the_metric_energy_leaves(run):
    rows = run.sql(
        "SELECT outside, energy FROM background JOIN metrics USING (image_id, method, target) WHERE method NOT IN ('random', 'fake_cam')"
    ).to_pylist()
    assert len(rows) == 12 * (2 * 3 + 1)
    assert [row["outside"] for row in rows] == [
        None if row["energy"] is None else pytest.approx(1 - row["energy"], abs=1e-6) for row in rows
    ]


def test_outside_the_mask_is_what_mass_accuracy_leaves(run):
    key = "method = 'grad_cam' AND target = 'label'"
    values = run.sql(f"SELECT image_id, 1 - mass_accuracy::DOUBLE AS outside FROM metrics WHERE {key} ORDER BY image_id").to_pylist()
    [row] = run.sql(f"SELECT * FROM background_summary WHERE {key} AND number = 'outside_mask' AND scope = 'all'").to_pylist()
    outside = np.array([[np.nan if value["outside"] is None else value["outside"] for value in values]])
    low, high = bootstrap.percentile_interval(bootstrap.resampled_means(outside, [value["image_id"] for value in values]))
    np.testing.assert_allclose([row["mean"], row["ci_low"], row["ci_high"]], [np.nanmean(outside), low[0], high[0]], **DOUBLE)


# boxes


def test_the_box_above_the_mean_is_that_of_loc_error(run):
    rows = run.sql(
        "SELECT iou, loc_error FROM map_boxes JOIN metrics USING (image_id, method, target) WHERE threshold IS NULL AND method <> 'random'"
    ).to_pylist()
    assert len(rows) > 60 and all(row["iou"] == pytest.approx(1 - row["loc_error"], abs=1e-6) for row in rows)


def test_boxes_at_thresholds_by_hand():
    cells = np.zeros((4, 4))
    cells[0, :3], cells[3, 3] = (1.0, 0.4, 0.3), 0.9  # a row of three, and a single cell
    rows = {row["threshold"]: row for row in map_boxes([image(stored(cells, render="area"), boxes=BOX)], thresholds=(0.2, 0.35, 0.95))}
    expected = {None: 0.75, 0.2: 0.75, 0.35: 0.5, 0.95: 0.25}  # the mean of all cells is 2.6 / 16
    for threshold, right in expected.items():
        assert rows[threshold]["box"] == {"x0": 0.0, "y0": 0.0, "x1": right, "y1": 0.25}
        assert rows[threshold]["area"] == right / 4
        inner = min(right, 0.5) / 4
        assert rows[threshold]["iou"] == pytest.approx(inner / (0.5 + right / 4 - inner), rel=1e-12)


def test_a_constant_map_has_no_boxes_and_an_image_without_boxes_no_overlap():
    assert [*map_boxes([image(stored(np.ones((4, 4))))])] == []
    assert {row["iou"] for row in map_boxes([image(stored(RNG.random((4, 4))))])} == {None}


# mean maps


def test_mean_maps_are_of_normalised_maps_right_and_wrong():
    images = [
        image(stored([[0.0, 2.0]]), predicted=0, name="i0"),
        image(stored([[1.0, 0.0]]), predicted=1, name="i1"),
        image(stored([[7.0, 9.0]]), predicted=1, name="i2"),
        image(stored([[3.0, 3.0]]), predicted=1, name="i3"),
        image(stored([[0.0, 2.0]]), label=4, predicted=4, name="i4"),
        image(stored([[0.0, 2.0]]), label=None, predicted=4, name="i5"),
    ]
    found = {(row["class_id"], row["subset"]): (row["n"], cells_of(row).ravel().tolist()) for row in mean_maps(images)}
    assert found == {
        (0, "all"): (3, pytest.approx([1 / 3, 2 / 3])),
        (0, "right"): (1, [0, 1]),
        (0, "wrong"): (2, pytest.approx([1 / 2, 1 / 2])),
        (4, "all"): (1, [0, 1]),
        (4, "right"): (1, [0, 1]),
    }


def test_mean_maps_of_a_run_are_drawn_as_its_maps_are(run):
    maps = run.sql("SELECT * FROM maps JOIN predictions USING (image_id) WHERE map_max > map_min").to_pylist()
    for row in run.table("mean_maps").to_pylist():
        own = [m for m in maps if (m["method"], m["target"], m["label"]) == (row["method"], row["target"], row["class_id"])]
        own = [m for m in own if row["subset"] == "all" or (m["predicted"] == m["label"]) is (row["subset"] == "right")]
        step = (row["map_max"] - row["map_min"]) / 255
        np.testing.assert_allclose(cells_of(row), np.mean([unit(cells_of(m)) for m in own], 0), rtol=0, atol=step / 2 + 1e-6)
        assert row["n"] == len(own) and tables.render(row, (16, 16)).shape == (16, 16)


# AggAtt


@pytest.mark.parametrize("count", [3, 12, 100, 1000])
def test_bins_hold_every_image_once_and_are_cut_at_shares_rounded_down(count):
    scores = RNG.random(count)
    images = np.array([f"i{i}" for i in range(count)])
    bins = bins_of(images, scores, lower=False)
    assert sorted(name for one in bins for name in one.images) == sorted(images)
    edges = [int(share * count) for share in (0, 0.02, 0.05, 0.5, 0.95, 0.98, 1)]
    assert {one.number: len(one.images) for one in bins} == {i: b - a for i, (a, b) in enumerate(pairwise(edges)) if b > a}
    np.testing.assert_array_equal(np.concatenate([one.scores for one in bins]), np.sort(scores)[::-1])
    np.testing.assert_array_equal(np.concatenate([one.scores for one in bins_of(images, scores, lower=True)]), np.sort(scores))


def test_ties_stand_in_an_order_of_their_own_and_no_value_in_none():
    images = np.array([f"i{i}" for i in range(100)])
    scores = np.where(np.arange(100) < 50, 1.0, np.nan)
    one, other = bins_of(images, scores, lower=False), bins_of(images[::-1], scores[::-1], lower=False)
    assert [[*a.images] for a in one] == [[*b.images] for b in other]
    assert sum(len(a.images) for a in one) == 50 and [*np.concatenate([a.images for a in one])] != [*images[:50]]


def test_a_bin_is_the_mean_of_its_images_positive_parts(run):
    for method, target in (("grad_cam", "label"), ("eigen_cam", "none")):
        key = f"method = '{method}' AND target = '{target}'"
        images = run.sql(f"SELECT image_id, energy FROM metrics WHERE {key} AND energy IS NOT NULL ORDER BY energy DESC").to_pylist()
        maps = {row["image_id"]: cells_of(row) for row in run.sql(f"SELECT * FROM maps WHERE {key}").to_pylist()}
        rows = run.sql(f"SELECT * FROM aggatt WHERE {key} ORDER BY bin").to_pylist()
        assert sum(row["n"] for row in rows) == len(images) == len({row["energy"] for row in images}) > 8
        cells = []
        for row in rows:
            own = images[int(row["low"] * len(images)) : int(row["high"] * len(images))]
            cells.append(np.mean([np.maximum(maps[one["image_id"]], 0) for one in own], 0))
            step = (row["map_max"] - row["map_min"]) / 255
            np.testing.assert_allclose(cells_of(row), cells[-1], rtol=0, atol=step / 2 + 1e-6 * row["map_max"])
            energies = np.array([[one["energy"] for one in own]])
            low, high = bootstrap.percentile_interval(bootstrap.resampled_means(energies, [one["image_id"] for one in own]))
            ends = [None if np.isnan(end[0]) else pytest.approx(end[0], rel=1e-9) for end in (low, high)]
            assert [row["ci_low"], row["ci_high"]] == ends and row["mean"] == pytest.approx(energies.mean(), rel=1e-9)
            assert len(row["examples"]) == min(5, row["n"]) and {*row["examples"]} <= {one["image_id"] for one in own}
        np.testing.assert_allclose([row["colour_max"] for row in rows], np.quantile(cells, 0.995), rtol=1e-6)
