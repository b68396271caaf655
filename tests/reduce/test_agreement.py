"""Agreement of methods and of metrics: by hand, against scipy, and in the same resamples as the summary's intervals."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import kendalltau

from pipeline import storage
from pipeline.reduce import bootstrap
from pipeline.reduce.analyses.agreement import agreement, kendall
from pipeline.reduce.analyses.rows import Rows
from pipeline.reduce.bootstrap import RunningMeans
from pipeline.reduce.compact import write_table
from pipeline.tables import schema
from tests.conditioning import DOUBLE

IMAGES = [f"i{i:02}" for i in range(30)]
METHODS = ("cam", "fake_cam", "grad", "random", "rise")
BETTER = {"energy": "higher", "ad": "lower", "tie_share": None}


def values(method: str, image: int) -> dict[str, float | None]:
    """Of metrics with noise of the image's own, and a null in one of them."""
    rng = np.random.default_rng([METHODS.index(method), image])
    quality = METHODS.index(method) / 4
    return {
        "energy": None if method == "rise" and image == 3 else quality + 0.5 * rng.random(),
        "ad": 1 - quality + rng.random(),
        "tie_share": 0.5,
    }


@pytest.fixture
def rows(tmp_path):
    """The tables that agreement reads, of five methods, one of them without a class."""

    def written(table: str, content: list[dict], columns: pa.Schema) -> Rows:
        files = []
        for method in METHODS if table in schema.PARTITIONED else (None,):
            path = f"{table}/method={method}/part.parquet" if method else f"{table}/part.parquet"
            chosen = pa.Table.from_pylist([row for row in content if method in (None, row.get("method"))], columns)
            url = storage.join(str(tmp_path), path)
            files.append((write_table(url, path, table, chosen), url))
        return Rows(table, files)

    names = [(method, "none" if method == "rise" else target) for method in METHODS for target in ("label", "second")]
    metrics = [
        {"image_id": image, "model": "m", "method": method, "target": target, **values(method, i)}
        for method, target in dict.fromkeys(names)
        for i, image in enumerate(IMAGES)
    ]
    pairs = [{"image_id": image, "model": "m", "target": "label", "pairs": pairs_of(i)} for i, image in enumerate(IMAGES)]
    summary = [{"metric": metric, "better": better} for metric, better in BETTER.items()]
    return (
        written("disagreement", pairs, schema.ANALYSES["disagreement"]),
        written("metrics", metrics, schema.metrics(BETTER)),
        written("summary", summary, schema.SUMMARY),
    )


def pairs_of(image: int) -> list[dict]:
    rng = np.random.default_rng(image)
    found = [{"a": "cam", "b": "grad", "spearman": rng.random()}, {"a": "cam", "b": "rise", "spearman": -rng.random()}]
    return found[: 1 if image == 5 else 2]


def test_kendall_by_hand():
    assert kendall(np.array([[1, 2, 3, 4], [1, 3, 2, 4.0]]))[0, 1] == pytest.approx(0.66667, abs=5e-6)
    assert kendall(np.array([[1, 2, 2, 4], [1, 3, 2, 4.0]]))[0, 1] == pytest.approx(0.91287, abs=5e-6)


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_every_two_rows_have_the_tau_of_scipy_over_what_both_have(levels):
    rng = np.random.default_rng(levels)
    numbers = rng.integers(0, levels, (6, 3, 9)).astype(float)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    found = kendall(numbers)
    for one, rows in zip(found, numbers, strict=True):
        for k in range(3):
            for other in range(3):
                both = np.isfinite(rows[k]) & np.isfinite(rows[other])
                np.testing.assert_allclose(one[k, other], kendalltau(rows[k][both], rows[other][both]).statistic, **DOUBLE)


def test_a_row_of_nothing_but_ties_has_no_tau():
    assert np.isnan(kendall(np.array([[1.0, 1, 1], [1, 2, 3]]))[0, 1])


def test_means_that_come_in_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    numbers = rng.uniform(-1, 1, (2, 30))
    numbers[0, 4] = np.nan
    means = RunningMeans()
    for part in (slice(0, 7), slice(7, 30)):
        means.add({("a",): numbers[0, part], ("b",): numbers[1, part]}, IMAGES[part])
    low, high = bootstrap.percentile_interval(bootstrap.resampled_means(numbers, IMAGES))
    for i, (_, estimate) in enumerate(means.estimates()):
        assert estimate["n"] == 30 - (i == 0)
        np.testing.assert_allclose(estimate["mean"], np.nanmean(numbers[i]), **DOUBLE)
        np.testing.assert_allclose([estimate["ci_low"], estimate["ci_high"]], [low[i], high[i]], atol=2**-33)


def test_one_number_has_no_interval_and_none_no_mean():
    means = RunningMeans()
    means.add({("a",): np.array([0.5, np.nan]), ("b",): np.full(2, np.nan)}, ["i0", "i1"])
    assert [estimate for _, estimate in means.estimates()] == [
        {"mean": 0.5, "ci_low": None, "ci_high": None, "n": 1},
        {"mean": None, "ci_low": None, "ci_high": None, "n": 0},
    ]


def test_methods_agree_by_the_mean_over_the_images_that_have_both(rows):
    found = {(row["a"], row["b"]): row for row in agreement(*rows) if row["kind"] == "methods"}
    for position, key in enumerate((("cam", "grad"), ("cam", "rise"))):
        of_images = [pairs_of(i) for i in range(30)]
        numbers = np.array([[float(np.float32(of[position]["spearman"])) if len(of) > position else np.nan for of in of_images]])
        low, high = bootstrap.percentile_interval(bootstrap.resampled_means(numbers, IMAGES))
        assert found[key]["n"] == 30 - position and found[key]["methods"] is None
        np.testing.assert_allclose(found[key]["mean"], np.nanmean(numbers), **DOUBLE)
        np.testing.assert_allclose([found[key]["ci_low"], found[key]["ci_high"]], [low[0], high[0]], atol=2**-33)
    assert len(found) == 2


@pytest.mark.parametrize("controls", [True, False])
@pytest.mark.parametrize("target", ["label", "second"])
def test_metrics_agree_by_the_order_of_the_methods_means_in_each_resample(rows, target, controls):
    [row] = [r for r in agreement(*rows) if (r["kind"], r["target"], r["with_controls"]) == ("metrics", target, controls)]
    methods = [method for method in METHODS if controls or method not in ("random", "fake_cam")]
    energy, ad = (
        np.array([[np.float32(values(method, i)[column] or np.nan) for i in range(30)] for method in methods]).astype(float)
        for column in ("energy", "ad")
    )
    assert (row["a"], row["b"], row["methods"], row["n"]) == ("ad", "energy", len(methods), 30)
    np.testing.assert_allclose(row["mean"], kendalltau(np.nanmean(energy, 1), -ad.mean(1)).statistic, **DOUBLE)
    resamples = [bootstrap.resampled_means(numbers, IMAGES).T for numbers in (energy, -ad)]
    taus = np.array([kendalltau(one, other).statistic for one, other in zip(*resamples, strict=True)])
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], np.quantile(taus, [0.025, 0.975]), **DOUBLE)


@pytest.mark.parametrize("controls", [True, False])
def test_the_tau_of_single_images_is_averaged(rows, controls):
    [row] = [r for r in agreement(*rows) if (r["kind"], r["target"], r["with_controls"]) == ("metrics_per_image", "label", controls)]
    methods = [method for method in METHODS if controls or method not in ("random", "fake_cam")]
    taus = []
    for i in range(30):
        of_image = [values(method, i) for method in methods]
        both = [(one["energy"], -one["ad"]) for one in of_image if one["energy"] is not None]
        taus.append(kendalltau(*zip(*both, strict=True)).statistic)
    low, high = bootstrap.percentile_interval(bootstrap.resampled_means(np.array([taus]), IMAGES))
    np.testing.assert_allclose(row["mean"], np.mean(taus), **DOUBLE)
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], [low[0], high[0]], atol=2**-33)
    assert row["n"] == 30


def test_nothing_to_compare_is_no_row(rows):
    disagreement, metrics, summary = rows
    nothing = [Rows(name, []) for name in ("disagreement", "metrics", "summary")]
    assert [*agreement(*nothing)] == []
    assert {row["kind"] for row in agreement(disagreement, nothing[1], nothing[2])} == {"methods"}
    assert {row["kind"] for row in agreement(nothing[0], metrics, summary)} == {"metrics", "metrics_per_image"}
