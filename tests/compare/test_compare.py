"""Comparing two runs: the numbers of `drift` are those of paired images, the verdict says what moved, and limits turn it into an exit code."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import compare, explain
from pipeline import tables
from pipeline.compare import scopes
from pipeline.compare.answers import BINS, _calibration
from pipeline.compare.verdict import Limit, rows_beyond
from pipeline.maps import similarity
from pipeline.reduce import bootstrap
from pipeline.refusal import Refusal
from tests.jobs import job
from tests.registries import registries
from tests.shards import dataset, good, tar_bytes

METHOD = '''"""A method of one's own."""

from pipeline.families import cam


@cam
def mine(A, dA):
    return {}
'''
LINES = "(dA.mean((2, 3), keepdim=True) * A).sum(1)", "(dA.mean((2, 3), keepdim=True) * A).sum(1).abs()"
CHANGES = {
    "methods": ("mine", "grad_cam", "random"),
    "metrics": ("energy", "deletion(steps=4)", "pxap"),
    "targets": ("label", "finer"),
}


def two_runs(folder: Path, **second) -> tuple[tables.Run, tables.Run]:
    """A run, and the next one of its name with a changed line in the method `mine` and these settings."""
    source, plugin = dataset(folder / "in"), folder / "mine.py"
    for line, changes in zip(LINES, ({}, second), strict=True):
        plugin.write_text(METHOD.format(line))
        with registries():
            explain.run(job(source, folder / "out", plugins=(str(plugin),), **CHANGES | changes))
    now = tables.open(str(folder / "out"))
    return now, tables.find(now.out, "previous", now)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[tables.Run, tables.Run]:
    return two_runs(tmp_path_factory.mktemp("runs"))


def tables_of(out: str, now: tables.Run, before: tables.Run) -> tuple[list[dict], list[dict], dict]:
    folder = Path(out, "drift", now.run_id, before.run_id)
    drift, moved = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("drift", "moved"))
    return drift, moved, json.loads((folder / "verdict.json").read_text())


def overall(rows: list[dict], **keys) -> list[dict]:
    return [row for row in rows if row["scope"] == "all" and keys.items() <= row.items()]


def test_a_run_against_itself_says_that_nothing_moved(runs, capsys):
    now, _ = runs
    assert compare.main(["--out", now.out, now.run_id, "default", "--bad", "moved>0", "spearman<1", "flips>0", "energy<0"]) == 0
    rows, moved, verdict = tables_of(now.out, now, now)
    assert not moved and verdict["bad"] == []
    assert capsys.readouterr().out.splitlines() == [verdict["verdict"]] and verdict["verdict"].startswith(
        "nothing moved in the predictions"
    )
    for row in rows:
        same = 1 if row["quantity"] in ("spearman", "ssim") else 0
        assert row["value"] in (same, None), row
        assert row["value"] is not None or not row["n"]


def test_a_changed_line_of_a_method_is_caught(runs, capsys):
    now, before = runs
    assert compare.main(["--out", now.out, "--bad", "mine.moved>0", "grad_cam.moved>0"]) == 4
    rows, moved, verdict = tables_of(now.out, now, before)
    assert verdict["bad"] == ["mine.moved>0", "mine.moved>0"]  # of both targets
    assert (
        verdict["verdict"].startswith("moved: maps: ") and "mine for label" in verdict["verdict"] and "grad_cam" not in verdict["verdict"]
    )
    assert "mine for label" in capsys.readouterr().out
    assert {row["method"] for row in moved} == {"mine"}
    distances = [row["relative_distance"] for row in moved if row["target"] == "label"]
    assert distances == sorted(distances, reverse=True)
    assert all(row["value"] == 0 for row in rows if row["quantity"] == "moved" and row["method"] != "mine")


def test_the_numbers_of_maps_are_those_of_scipy(runs):
    from scipy.stats import spearmanr

    now, before = runs
    compare.main(["--out", now.out])
    rows, *_ = tables_of(now.out, now, before)
    maps = [
        run.sql("SELECT *, map_floats(maps) AS cells FROM maps WHERE method = 'mine' AND target = 'label' ORDER BY image_id").to_pylist()
        for run in runs
    ]
    pairs = [(np.array(a["cells"]), np.array(b["cells"])) for a, b in zip(*maps, strict=True)]
    correlations = np.array([spearmanr(a, b).statistic if np.ptp(a) and np.ptp(b) else np.nan for a, b in pairs])
    [row] = overall(rows, method="mine", target="label", quantity="spearman")
    assert row["n"] == np.isfinite(correlations).sum()
    np.testing.assert_allclose(row["value"], np.nanmean(correlations), rtol=1e-6)  # the cells come from float32
    lengths = [np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b)) for a, b in pairs]
    [row] = overall(rows, method="mine", target="label", quantity="relative_distance")
    np.testing.assert_allclose(row["value"], np.mean(lengths), rtol=1e-6)


@pytest.mark.parametrize("quantity", ["energy", "deletion"])
def test_a_metric_is_compared_image_by_image(runs, quantity):
    now, before = runs
    compare.main(["--out", now.out])
    rows, *_ = tables_of(now.out, now, before)
    query = f"SELECT image_id, label, {quantity} FROM metrics WHERE method = 'mine' AND target = 'finer' ORDER BY image_id"
    values = [run.sql(query).to_pydict() for run in runs]
    numbers = [np.array(of_run[quantity], dtype=float) for of_run in values]
    images, labels = np.array(values[0]["image_id"]), np.array(values[0]["label"])
    for scope in ("all", "2"):
        own = (labels >= 0 if scope == "all" else labels == int(scope)) & np.isfinite(numbers).all(0)
        [row] = [row for row in rows if (row["method"], row["target"], row["quantity"], row["scope"]) == ("mine", "finer", quantity, scope)]
        difference = (numbers[0] - numbers[1])[own]
        assert row["n"] == own.sum()
        np.testing.assert_allclose([row["before"], row["now"]], [numbers[1][own].mean(), numbers[0][own].mean()])
        np.testing.assert_allclose(row["value"], difference.mean(), atol=1e-15)
        ends = bootstrap.percentile_interval(bootstrap.resampled_means(difference[None], images[own]))
        np.testing.assert_allclose([row["ci_low"], row["ci_high"]], np.ravel(ends), atol=1e-12)


def test_a_number_of_the_dataset_is_compared_without_an_interval(runs):
    now, before = runs
    compare.main(["--out", now.out])
    [row] = overall(tables_of(now.out, now, before)[0], method="mine", target="label", quantity="pxap")
    values = [
        run.sql("SELECT mean FROM summary WHERE metric = 'pxap' AND method = 'mine' AND target = 'label' AND scope = 'all'") for run in runs
    ]
    after, earlier = (value["mean"][0].as_py() for value in values)
    assert (row["before"], row["now"], row["value"]) == (earlier, after, after - earlier) and row["ci_low"] is None


def test_versions_and_settings_that_differ_are_told(tmp_path):
    now, before = two_runs(tmp_path, metrics=("energy", "deletion(steps=8)", "pxap"), seed=3)
    compare.main(["--out", now.out])
    details = {row["quantity"]: row["detail"] for row in tables_of(now.out, now, before)[0] if row["kind"] == "versions"}
    assert details == {"seed": "0 -> 3", "metrics.deletion.steps": "4 -> 8"}


def test_images_that_are_new_gone_and_relabelled_are_counted(tmp_path):
    source, folder = dataset(tmp_path / "in", shards=3, images=2), tmp_path / "in"
    job_of_night = job(source, tmp_path / "out", methods=("grad_cam",), targets=("label",))
    explain.run(job_of_night)
    relabelled = good(0) | {"cls": b"3", "json": json.dumps({"label": 3}).encode()}
    (folder / "00000.tar").write_bytes(tar_bytes([("image000", relabelled), ("image777", good(7))]))  # image001 is gone
    explain.run(job_of_night)
    now = tables.open(str(tmp_path / "out"))
    assert compare.main(["--out", now.out, "--bad", "gone_images>0"]) == 4
    rows, _, verdict = tables_of(now.out, now, tables.find(now.out, "previous", now))
    counts = {row["quantity"]: row["value"] for row in overall(rows, kind="inputs")}
    assert counts == {"new_images": 1, "gone_images": 1, "relabelled_images": 1, "images_in_changed_shards": 1, "failed_images": 0}
    assert verdict["verdict"].startswith("moved: 1 new image, 1 gone image, 1 relabelled image")


def test_runs_of_two_networks_in_two_places_are_compared_over_the_images_in_both(tmp_path):
    source = dataset(tmp_path / "in")
    explain.run(job(source, tmp_path / "a", methods=("grad_cam",), targets=("label",)))
    explain.run(job(source, tmp_path / "b", methods=("grad_cam",), targets=("label",), backbone="tests.tiny:sharp", limit=7))
    assert compare.main(["--out", str(tmp_path / "b"), "default", f"{tmp_path / 'a'}#default"]) == 0
    now, before = (tables.open(str(tmp_path / name)) for name in "ba")
    rows, *_ = tables_of(str(tmp_path / "b"), now, before)
    images = min(7, now.manifest["counts"]["images"])
    [flips] = overall(rows, quantity="flips")
    classes = [
        dict(zip(*run.sql("SELECT image_id, predicted FROM predictions").to_pydict().values(), strict=True)) for run in (now, before)
    ]
    assert flips["n"] == len(classes[0].keys() & classes[1].keys()) == images
    assert flips["value"] == np.mean([classes[0][image] != classes[1][image] for image in classes[0]])


def test_another_batch_size_moves_nothing_and_is_the_floor(tmp_path):
    source = dataset(tmp_path / "in")
    for name, size in (("a", "1"), ("b", "5")):
        explain.run(job(source, tmp_path / name, methods=("grad_cam",), targets=("label",), batch_size=size))
    explain.run(job(source, tmp_path / "a", methods=("grad_cam",), targets=("label",), backbone="tests.tiny:curved", name="other"))
    a, b = (str(tmp_path / name) for name in "ab")
    assert compare.main(["--out", b, "default", f"{a}#default", "--bad", "moved>0"]) == 0
    assert compare.main(["--out", a, "other", "default", "--floor", f"{b}#default", "--to", str(tmp_path / "drift")]) == 0
    [row] = overall(pq.read_table(tmp_path / "drift" / "drift.parquet").to_pylist(), quantity="moved")
    assert row["value"] > 0.5 and row["floor"] == 0  # the maps that are blank in both runs stay so


def test_the_calibration_error_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    sure, right = rng.random((2, 200)), (rng.random((2, 200)) < 0.6).astype(float)
    sure[0, 0] = 1  # belongs to the last bin
    names = np.array([f"image{i}" for i in range(200)])
    numbers = {f"{name}_{run}": of_run[i] for name, of_run in (("sure", sure), ("right", right)) for i, run in enumerate(("before", "now"))}
    row = _calibration(numbers, names)

    def error(sure, right, weights) -> float:
        edges = np.linspace(0, 1, BINS + 1)
        total = 0.0
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            inside = (sure >= low) & ((sure < high) | (high == 1))
            if weights[inside].sum():
                gap = abs(np.average(right[inside], weights=weights[inside]) - np.average(sure[inside], weights=weights[inside]))
                total += weights[inside].sum() / weights.sum() * gap
        return total

    ones = np.ones(200)
    np.testing.assert_allclose([row["before"], row["now"]], [error(sure[i], right[i], ones) for i in (0, 1)])
    resamples = bootstrap.draws_of(names).astype(float).T
    changes = [error(sure[1], right[1], weights) - error(sure[0], right[0], weights) for weights in resamples]
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], np.quantile(changes, [0.025, 0.975]), atol=1e-8)


def test_a_map_has_moved_where_it_differs_by_more_than_a_level():
    levels = np.arange(16.0).reshape(4, 4)
    step = 15 / 255
    assert not similarity.moved(levels, levels + 0.99 * step) and similarity.moved(levels, levels + 1.01 * step)
    flat = np.full((4, 4), 1e-3)
    assert not similarity.moved(flat, flat * (1 + 1e-7)) and similarity.moved(flat, 2 * flat)
    assert similarity.moved(flat, levels)


def test_likenesses_by_hand():
    one, other = np.array([[1.0, 2], [3, 4]]), np.array([[2.0, 1], [4, 3]])
    np.testing.assert_allclose(similarity.spearman(one, other), 0.6)
    np.testing.assert_allclose(similarity.relative_distance(one, other), 2 / np.sqrt(30))
    np.testing.assert_allclose(similarity.relative_distance(one, -one), 2)
    assert np.isnan(similarity.spearman(one, np.ones_like(one))) and similarity.relative_distance(0 * one, 0 * one) == 0


def test_maps_of_two_grids_are_compared_on_the_finer_one():
    rows = [
        {"map": cells, "map_min": 0.0, "map_max": 255.0, "height": side, "width": side, "render": "area"}
        for side, cells in ((2, [0, 255, 100, 50]), (4, [0, 0, 255, 255] * 2 + [100, 100, 50, 50] * 2))
    ]
    coarse, fine = similarity.on_one_grid(*rows)
    np.testing.assert_array_equal(coarse, fine)


@pytest.mark.parametrize("text", ["spearman", "spearman=0.9", "<0.5", "spearman<many"])
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(Refusal, match="--bad .* is no limit"):
        Limit.parse(text)


def test_a_limit_of_an_unknown_quantity_or_method_is_refused(runs):
    rows = [{"kind": "maps", "scope": "all", "quantity": "spearman", "method": "rise", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6}]
    with pytest.raises(Refusal, match="spearman"):
        rows_beyond([Limit.parse("spearmann<0.9")], rows)
    with pytest.raises(Refusal, match="rise"):
        rows_beyond([Limit.parse("ries.spearman<0.9")], rows)


@pytest.mark.parametrize(
    ("text", "passed"), [("spearman<0.55", False), ("spearman<0.61", True), ("spearman>0.3", True), ("spearman>0.45", False)]
)
def test_a_limit_is_passed_where_the_whole_interval_lies_beyond(text, passed):
    row = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    assert Limit.parse(text).passed_by(row) is passed
    assert Limit.parse("spearman<0.55").passed_by(row | {"ci_low": None, "ci_high": None})


def test_classes_without_a_label_count_among_all_images_alone():
    import pyarrow as pa

    of_images = scopes.Scopes.of(pa.chunked_array([pa.array([3, None, 3, 1], pa.int32())]))
    rows = scopes.share_rows("flips", np.array([1.0, 1, 0, 0]), of_images)
    assert [(row["scope"], row["n"], row["value"]) for row in rows] == [("all", 4, 0.5), ("1", 1, 0.0), ("3", 2, 0.5)]


def test_a_run_that_is_not_there_is_refused_with_the_names(runs):
    with pytest.raises(Refusal, match="'nothing' is neither a run below .* published is default"):
        tables.find(runs[0].out, "nothing")
    with pytest.raises(Refusal, match="is the first run of its name"):
        tables.find(runs[0].out, "previous", runs[1])
