"""Metrics from shards to published tables, and what summaries and joins owe."""

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import explain
from pipeline import backbones, tables
from pipeline.plan import outputs
from pipeline.plan.outputs import outputs_of
from pipeline.reduce import bootstrap
from pipeline.reduce.controls import add_reasons
from pipeline.reduce.corpus import summarise_partials
from pipeline.reduce.curves import curves_of
from pipeline.reduce.moments import exact_interval, moments
from pipeline.reduce.summary import summarise
from pipeline.score.partials import WHOLE, add_score, by_group, group_of
from pipeline.score.scoring import Score
from pipeline.spec.columns import GROUPS
from pipeline.spec.explain_spec import build_spec
from pipeline.tables import schema
from pipeline.tables.wide import add_partials, drop_groups, widen
from tests.conditioning import UNIT, UNIT64, near, slack
from tests.jobs import METRICS, content, scoring_job
from tests.shards import encoded, picture, tar_bytes


@pytest.fixture(scope="module")
def published(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert explain.run(scoring_job(source, out)).complete
    return out


def test_a_run_with_metrics_publishes_them_for_every_map_and_control(published):
    stored = content(published)
    asked = {("grad_cam", "label"), ("grad_cam", "finer"), ("fake_cam", "none"), ("random", "none")}
    assert {(row["method"], row["target"]) for row in stored["metrics"]} == asked
    keys = [(row["image_id"], row["method"], row["target"], row["class_id"]) for row in stored["metrics"]]
    assert keys == [(row["image_id"], row["method"], row["target"], row["class_id"]) for row in stored["maps"]]
    assert {*stored["metrics"][0]} == {"image_id", "model", "method", "target", "class_id", "label", "label_name", "reasons"} | {
        *("energy", "pointing", "iou_10", "iou_30", "iou_50", "iou_70", "iou_90")
    }
    scopes = {"all", "0", "1", "2", "3", "4"}
    assert {(row["method"], row["target"], row["scope"]) for row in stored["summary"] if row["metric"] == "energy"} == {
        (*pair, scope) for pair in asked for scope in scopes
    }
    assert [row["mean"] for row in stored["summary"] if row["method"] == "fake_cam" and row["metric"] == "pointing"] == [1.0] * 6
    assert {row["better"] for row in stored["summary"]} == {"higher"}
    told = {"name": "box_acc", "metric": "box_acc", "version": 1, "stored": False, "step": 0.1, "components": "all", "by_class": False}
    assert tables.open(str(published)).manifest["metrics"][4] == told


def test_the_summary_is_what_sql_says_of_the_metrics(published):
    run = tables.open(str(published))
    found = run.sql("SELECT * FROM summary WHERE metric = 'energy' ORDER BY method, target, scope").to_pylist()
    for scope in ("all", "2"):
        kept = "true" if scope == "all" else f"m.label = {scope}"
        expected = run.sql(
            "SELECT m.method, m.target, count(m.energy) AS n, count(*) - count(m.energy) AS n_null, avg(m.energy) AS mean, "
            "stddev_samp(m.energy) AS std, avg(m.energy - r.energy) AS diff_random, "
            "avg(CASE WHEN m.target NOT IN ('label', 'none') THEN m.energy - p.energy END) AS diff_label "
            "FROM metrics m LEFT JOIN metrics r ON r.image_id = m.image_id AND r.method = 'random' "
            "LEFT JOIN metrics p ON p.image_id = m.image_id AND p.method = m.method AND p.target = 'label' "
            f"WHERE {kept} GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        rows = [row for row in found if row["scope"] == scope]
        # float32 columns of shares: SQL subtracts them, and rounds, before it widens them
        assert [{key: row[key] for key in expected[0]} for row in rows] == [pytest.approx(row, abs=2 * UNIT) for row in expected]


def test_curves_are_the_mean_of_every_image_however_images_are_dealt_out(source, tmp_path):
    found = []
    for size in (100, 3, 4):
        out = tmp_path / str(size)
        explain.run(scoring_job(source, out, metrics=("deletion(steps=5)", "up=insertion(steps=4)", "pxap"), task_images=size))
        found.append(tables.open(str(out)))
    query = "SELECT metric, step, mean, n FROM curves WHERE method = 'grad_cam' AND target = 'finer' ORDER BY metric, step"
    rows = found[0].sql(query).to_pylist()
    assert [(row["metric"], row["step"]) for row in rows] == [
        (metric, step) for metric, n in (("deletion", 6), ("deletion_label", 6), ("up", 5), ("up_label", 5)) for step in range(n)
    ]
    means = (
        found[0]
        .sql(
            "SELECT metric, mean, n FROM summary WHERE method = 'grad_cam' AND target = 'finer' AND scope = 'all' AND metric NOT IN ('pxap', 'tie_share')"
        )
        .to_pylist()
    )
    backbone = backbones.load("tests.tiny:build", image_size=64)
    x = backbone.prepare(torch.from_numpy(np.stack([np.asarray(picture(i, 64)).transpose(2, 0, 1) for i in range(12)])))
    for told in means:  # the area under the mean curve is the mean of the areas
        curve = [row["mean"] for row in rows if row["metric"] == told["metric"]]
        assert np.trapezoid(curve) / (len(curve) - 1) == pytest.approx(told["mean"], abs=1 / WHOLE + UNIT)
        assert {row["n"] for row in rows if row["metric"] == told["metric"]} == {told["n"]}
    assert len(means) == 4
    for other in found[1:]:
        same = other.sql(query).to_pylist()
        assert [{**row, "mean": 0} for row in same] == [{**row, "mean": 0} for row in rows]
        rounded = 2 * slack(lambda backbone, x: backbone.logits(x).softmax(1), backbone, x).max().item() + 1 / WHOLE
        assert [row["mean"] for row in same] == pytest.approx([row["mean"] for row in rows], abs=rounded)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(9)), st.integers(0, 9))
def test_curves_add_up_exactly_in_any_order(order, cut):
    curves = np.random.default_rng(0).random((9, 4))
    whole, parts = {}, ({}, {})
    for curve in curves:
        add_score(whole, Score({"m": 0.5}, {"m": curve}))
    for place, i in enumerate(order):
        add_score(parts[place < cut], Score({"m": 0.5}, {"m": curves[i]}))
    rows = [
        {"metric": "m", "model": "n", "method": "a", "target": "t", "scope": "all", "kind": kind, "values": values}
        for part in parts
        for kind, values in part.items()
    ]
    told = curves_of(add_partials(pa.Table.from_pylist(rows, schema.PARTIALS))).to_pylist()
    assert [row["mean"] for row in told] == list(whole["curve: m"] / 9 / WHOLE) and {row["n"] for row in told} == {9}
    np.testing.assert_allclose([row["mean"] for row in told], curves.mean(0), atol=1 / WHOLE)


def test_the_interval_of_a_curve_is_from_resampling_groups_and_null_where_some_images_have_none():
    """Of each resample the mean over its images, by hand; and of a task of an earlier version, which counted no groups, nothing is known."""
    rng = np.random.default_rng(0)
    about, sums, groups = {"metric": "m", "model": "n", "target": "none", "scope": "all"}, {}, []
    values = rng.random((60, 3))
    for i, curve in enumerate(values):
        groups.append(group_of(f"i{i}"))
        add_score(sums, Score({"m": 0.5}, {"m": curve}), groups[-1])
    rows = [{**about, "method": method, "kind": kind, "values": counts} for method in ("a", "random") for kind, counts in sums.items()]
    found = curves_of(pa.Table.from_pylist(rows, schema.PARTIALS)).to_pylist()
    names = sorted({*groups})
    weights = bootstrap.draws_of(names).T[:, [names.index(group) for group in groups]].astype(float)
    means = np.array([np.average(values, axis=0, weights=draw) for draw in weights])
    assert len(names) > 10 and [row["step"] for row in found] == [0, 1, 2, 0, 1, 2]
    for row, low, high in zip(found, *np.tile(np.quantile(means, [0.025, 0.975], axis=0), 2), strict=True):
        assert (row["ci_low"], row["ci_high"]) == (pytest.approx(low, abs=2 / WHOLE), pytest.approx(high, abs=2 / WHOLE))
        assert (row["random"], row["random_low"], row["random_high"]) == (row["mean"], row["ci_low"], row["ci_high"])
        assert row["fake_cam"] is None
    add_score(sums, Score({"m": 0.5}, {"m": values[0]}))
    rows = [{**about, "method": "a", "kind": kind, "values": counts} for kind, counts in sums.items()]
    assert {(row["n"], row["ci_low"]) for row in curves_of(pa.Table.from_pylist(rows, schema.PARTIALS)).to_pylist()} == {(61, None)}


def test_one_more_metric_computes_that_metric_alone(source, published, tmp_path):
    explain.run(scoring_job(source, tmp_path, metrics=()))
    assert not {"metrics", "summary"} & set(tables.open(str(tmp_path)).tables)
    explain.run(scoring_job(source, tmp_path, metrics=METRICS[:2]))
    first = set(tmp_path.glob("tasks/**/receipt.json"))
    explain.run(scoring_job(source, tmp_path))
    new = [json.loads(path.read_text()) for path in tmp_path.glob("tasks/**/receipt.json") if path not in first]
    assert {part["table"] for receipt in new for part in receipt["cells"].values()} == {"scores", "partials"}
    assert {len(receipt["cells"]) for receipt in new} == {4 * 3}, "four maps, three metrics"
    assert content(tmp_path) == content(published)
    assert not explain.run(scoring_job(source, tmp_path)).new


def test_what_is_unchanged_is_copied(source, tmp_path):
    before = explain.run(scoring_job(source, tmp_path, metrics=METRICS[:2])).run_id
    after = explain.run(scoring_job(source, tmp_path)).run_id
    old, new = ({e["path"] for e in tables.open(str(tmp_path), run_id=run).manifest["files"]} for run in (before, after))
    assert {path.split("/")[0] for path in new - old} == {"metrics", "partials", "summary", "curves"}


@pytest.mark.parametrize("size", [3, 4])
def test_numbers_do_not_depend_on_how_images_are_dealt_out(source, published, tmp_path, size):
    explain.run(scoring_job(source, tmp_path, task_images=size))
    stored, expected = content(tmp_path), content(published)
    for table in ("metrics", "partials", "summary"):
        exact = [[row for row in each[table] if row["method"] != "grad_cam"] for each in (stored, expected)]
        assert exact[0] == exact[1], table
        for row, same in zip(stored[table], expected[table], strict=True):
            assert {k: v for k, v in row.items() if k not in ("reasons", "values")} == pytest.approx(
                {k: v for k, v in same.items() if k not in ("reasons", "values")}, abs=4 / 64**2
            ), "by the last digits of four pixels at a threshold at most"


def test_a_dataset_without_boxes_has_nulls_with_reasons(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"x{i}", {"png": encoded(picture(i)), "cls": b"1"}) for i in range(3)]))
    assert explain.run(scoring_job(str(tmp_path / "a.tar"), tmp_path / "out", targets=("label",))).complete
    run = tables.open(str(tmp_path / "out"))
    assert run.sql("SELECT DISTINCT energy, reasons['energy'] AS why FROM metrics").to_pylist() == [{"energy": None, "why": "no box"}]
    rows = run.sql("SELECT DISTINCT n, n_null, mean FROM summary WHERE scope = 'all'").to_pylist()
    assert rows == [{"n": 0, "n_null": 3, "mean": None}]
    assert run.sql("SELECT count(*) AS n FROM partials WHERE kind = 'null: no box'").to_pylist() == [{"n": 6}]


def test_the_command_line_takes_metrics_like_methods(source, tmp_path, capsys):
    command = ["--source", source, "--backbone", "tests.tiny:build", "--image-size", "64", "--out", str(tmp_path), "--workers", "0"]
    command += [
        "--metrics",
        "family:localisation",
        "sharp=pointing_blob(threshold=0.99)",
        "--metric-args",
        "pxap.bins=50",
        "box_acc.step=0.2",
    ]
    explain.main([*command, "--dry"])
    assert "scores energy grad_cam label: 3 of 3 tasks to compute" in capsys.readouterr().out
    assert explain.main(command) == 0
    run = tables.open(str(tmp_path))
    assert {"sharp", "sharp_small", "f1"} < set(run.dataset("metrics").schema.names)
    assert "tie_share" not in run.dataset("metrics").schema.names
    lengths = run.sql("SELECT DISTINCT metric, kind, len(values) AS n FROM partials WHERE kind IN ('hits', 'positive')").to_pylist()
    assert {(row["metric"], row["n"]) for row in lengths} == {("pxap", 51), ("box_acc", 15), ("max_box_acc_v2", 300)}
    dataset_level = run.sql("SELECT DISTINCT metric FROM summary WHERE metric IN ('pxap', 'box_acc', 'max_box_acc_v2')").to_pylist()
    assert len(dataset_level) == 3


def test_where_nothing_is_scored_the_tables_are_there_and_empty(source, tmp_path):
    explain.run(scoring_job(source, tmp_path, select="predicted < 0"))
    stored = content(tmp_path)
    assert (stored["metrics"], stored["partials"], stored["summary"]) == ([], [], [])


def test_intervals_are_those_of_scipy():
    """An end of an interval from R resamples is off by 2.67 / sqrt(R) standard errors: the normal quantile's own."""
    from scipy.stats import bootstrap, norm

    rng = np.random.default_rng(0)
    values, group = rng.random((2, 700)) ** [[1], [3]], rng.integers(0, 4, 700)
    values[:, ::7] = np.nan
    group[:2] = -1
    group[2] = 3
    group[3:][group[3:] == 3] = 0  # one value in group 3
    found = moments(values, np.array([f"i{i}" for i in range(700)]), group, 4)
    noise = np.sqrt(0.025 * 0.975) / norm.pdf(norm.ppf(0.025)) * np.sqrt(1 / 1000 + 1 / 4000)
    for c, i in itertools.product(range(2), range(3)):
        mine = values[c, (group == i) & np.isfinite(values[c])]
        error = mine.std(ddof=1) / np.sqrt(len(mine))
        low, high = bootstrap((mine,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
        assert (found["n"][c, i], found["mean"][c, i], found["std"][c, i]) == (
            len(mine),
            *(near(each, len(mine)) for each in (mine.mean(), mine.std(ddof=1))),
        )
        assert (found["ci_low"][c, i], found["ci_high"][c, i]) == tuple(pytest.approx(end, abs=4 * noise * error) for end in (low, high))
    assert (found["n"][:, 3] == 1).all() and np.isnan(found["std"][:, 3]).all() and np.isnan(found["ci_low"][:, 3]).all()


def test_shares_have_exact_intervals():
    from scipy.stats import binomtest

    cases = [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (517, 1000), (1, 50_000)]
    found = exact_interval(np.array([n for _, n in cases], float), np.array([ones / n for ones, n in cases]))
    for i, (ones, n) in enumerate(cases):
        expected = binomtest(ones, n).proportion_ci(0.95, "exact")
        ends = found["ci_low"][i], found["ci_high"][i]
        assert ends == tuple(pytest.approx(end, abs=2e-12, rel=0) for end in expected), "to what SciPy's search for a root stops at"
    assert np.isnan(exact_interval(np.array([0.0]), np.array([np.nan]))["ci_low"]).all()


def test_metrics_of_zeros_and_ones_have_them_in_the_summary(published):
    rows = [row for row in content(published)["summary"] if row["metric"] == "pointing" and row["n"]]
    assert all(0 <= row["ci_low"] < row["mean"] + UNIT64 and row["mean"] - UNIT64 < row["ci_high"] <= 1 for row in rows)
    fake = next(row for row in rows if row["method"] == "fake_cam" and row["scope"] == "all")
    assert (fake["mean"], fake["ci_high"]) == (1, 1)
    assert fake["ci_low"] == near(0.025 ** (1 / 12), 2**16)  # all of 12: the share whose 12th power is 0.025


def test_every_number_of_the_summary_has_those_of_the_controls_beside_it(published):
    rows = content(published)["summary"]
    own = {(row["method"], row["metric"], row["scope"]): [row[name] for name in ("mean", "ci_low", "ci_high")] for row in rows}
    for row in rows:
        for control in ("random", "fake_cam"):
            beside = [row[f"{control}{end}"] for end in ("", "_low", "_high")]
            assert beside == own[control, row["metric"], row["scope"]]
        nulls = {name for name in ("mean", "random", "fake_cam", "diff_random") if row[name] is None}
        named = {name for name, _ in row["reasons"] or ()}
        assert named >= nulls - ({"diff_random"} if row["mean"] is None else set())
        assert all(row[name] is None for name in named)
    assert any(row["reasons"] is None for row in rows)


def test_a_null_in_the_summary_has_its_reason():
    images = [{"image_id": f"i{i}", "model": "m", "target": "label", "class_id": 0, "label": i // 3, "metric": "energy"} for i in range(4)]
    scores = [{**row, "method": "grad_cam", "value": 0.5} for row in images]
    scores += [{**row, "method": "fake_cam", "target": "none", "value": None, "reason": "no box"} for row in images]
    spec = replace(SHARED, metrics=SHARED.metrics[:1])
    metrics = widen(pa.Table.from_pylist(scores, schema.SCORES), spec.columns)
    rows = summarise(metrics, schema.PARTIALS.empty_table(), spec).to_pylist()
    reasons = {(row["method"], row["scope"]): dict(row["reasons"]) for row in rows}
    random = dict.fromkeys(("random", "diff_random"), "the run has no method random")
    assert reasons["grad_cam", "all"] == {**random, "fake_cam": "the method fake_cam has no value here"}
    alone = "there are fewer than two to resample: images, groups of images, or pairs"
    assert reasons["grad_cam", "1"] == {**reasons["grad_cam", "all"], "ci_low": alone}
    assert reasons["fake_cam", "all"].items() >= {"mean": "nothing has a value", "random": random["random"]}.items()
    for row in rows:
        nulls = {name for name in ("mean", "random", "fake_cam") if row[name] is None}
        assert nulls == {name for name, _ in row["reasons"]} & {"mean", "random", "fake_cam"}


def test_a_new_version_of_the_summary_is_a_new_run_of_the_same_tasks(source, tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "VERSIONS", {**schema.VERSIONS, "summary": 1, "curves": 1})
        assert explain.run(scoring_job(source, tmp_path)).new
    landed = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tasks/**/*") if path.is_file()}
    assert explain.run(scoring_job(source, tmp_path)).new
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("tasks/**/*") if path.is_file()} == landed
    assert not explain.run(scoring_job(source, tmp_path)).new


def test_dataset_level_metrics_have_intervals_in_the_summary(published):
    rows = [row for row in content(published)["summary"] if row["metric"] in ("pxap", "box_acc")]
    assert {row["scope"] for row in rows} == {"all"} and len(rows) == 2 * 4
    for row in rows:
        assert 0 <= row["ci_low"] <= row["ci_high"] <= 1 and row["std"] is None
        assert row["diff_random_low"] <= row["diff_random_high"]
        assert (row["diff_label_low"] is None) == (row["target"] != "finer")
        if row["metric"] == "pxap":
            assert row["ci_low"] <= row["mean"] <= row["ci_high"]
        if row["method"] == "random":
            assert row["diff_random_low"] == row["diff_random"] == row["diff_random_high"] == 0


def test_counts_of_other_groups_are_other_counts(monkeypatch):
    backbone = backbones.load("tests.tiny:build", image_size=64)
    before = outputs_of(SHARED, backbone, ())
    monkeypatch.setattr(outputs, "GROUPS", 30)
    after = outputs_of(SHARED, backbone, ())
    moved = {cell.metric.name for cell, other in zip(before, after, strict=True) if cell.identity != other.identity}
    assert moved == {"pxap"}


SHARED = build_spec(["grad_cam"], ["label", "finer"], metrics=["energy", "ai", "pxap(bins=4)"])


def dealt(seed, images=9):
    """What each of some images adds: rows of scores, and of partials."""
    rng = np.random.default_rng(seed)
    for i in range(images):
        scores, partials = [], []
        for method, target in (("grad_cam", "label"), ("grad_cam", "finer"), ("random", "none"), ("fake_cam", "none")):
            about = {"model": "m", "method": method, "target": target}
            label = None if i == 0 else i % 3
            for metric in ("energy", "ai", "ai_pred"):
                value = None if rng.random() < 0.2 else float(rng.random() if metric == "energy" else rng.integers(2))
                reason = {"reason": "why not" if value is None else None}
                scores.append({**about, **reason, "image_id": f"i{i}", "class_id": i, "label": label, "metric": metric, "value": value})
            sums = {}
            counted = Score({"positive": rng.integers(0, 99, 5), "negative": rng.integers(0, 99, 5)})
            add_score(sums, counted, group_of(f"i{i}"))
            partials += [{**about, "metric": "pxap", "scope": "all", "kind": kind, "values": values} for kind, values in sums.items()]
        yield pa.Table.from_pylist(scores, schema.SCORES), pa.Table.from_pylist(partials, schema.PARTIALS)


def reduced(groups):
    """The summary of groups of images, each reduced by itself first."""
    metrics = [widen(pa.concat_tables(scores for scores, _ in group), SHARED.columns) for group in groups]
    partials = [add_partials(pa.concat_tables(partials for _, partials in group)) for group in groups]
    return summarise(pa.concat_tables(metrics), add_partials(pa.concat_tables(partials)), SHARED).to_pylist()


@cache
def at_once(seed):
    return reduced([list(dealt(seed))])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 3), order=st.permutations(range(9)), cuts=st.sets(st.integers(1, 8)))
def test_however_images_are_dealt_out_the_summary_is_the_same_to_the_last_digit(seed, order, cuts):
    images = list(dealt(seed))
    edges = [0, *sorted(cuts), 9]
    groups = [[images[i] for i in order[start:stop]] for start, stop in zip(edges, edges[1:], strict=False)]
    expected = at_once(seed)
    assert repr(reduced(groups)) == repr(expected)
    for row in expected:
        if row["metric"] == "pxap":
            assert row["ci_low"] < row["mean"] < row["ci_high"]
            assert row["diff_random_low"] <= row["diff_random"] <= row["diff_random_high"]
            assert (row["diff_label_low"] is None) == (row["target"] != "finer")


def test_resampled_groups_make_an_interval_about_as_wide_as_the_exact_one():
    """Narrower by sqrt(19 / 20), as for any 20 things; one width is off by 1 / sqrt(2 * 19), a sixth, and the mean of 60 by less."""
    rng = np.random.default_rng(0)
    spec = build_spec(["random"], [], metrics=["remove_and_classify"])
    groups, rows = [group_of(f"shard-{i % 7}.tar/{i}") for i in range(600)], []
    for method in (f"m{i}" for i in range(12)):
        sums = {}
        for group, right in zip(groups, rng.random((600, 5)) < [0.1, 0.3, 0.5, 0.7, 0.9], strict=True):
            add_score(sums, Score({"right": right, "right_at_random": np.ones(5)}), group)
        about = {"metric": "remove_and_classify", "model": "n", "method": method, "target": "none", "scope": "all"}
        rows += [{**about, "kind": kind, "values": values} for kind, values in sums.items()]
    found = summarise_partials(pa.Table.from_pylist(rows, schema.PARTIALS), spec).to_pylist()
    means = np.array([row["mean"] for row in found])
    low, high = np.array([[row["ci_low"], row["ci_high"]] for row in found]).T
    exact = exact_interval(np.full(60, 600.0), means)
    assert len(set(groups)) == GROUPS and len(found) == 60
    assert ((low < means) & (means < high)).all()
    widths = (high - low) / (exact["ci_high"] - exact["ci_low"])
    assert widths.mean() == pytest.approx(np.sqrt(19 / 20), abs=4 / np.sqrt(2 * 19) / np.sqrt(60))
    truth = np.tile([0.1, 0.3, 0.5, 0.7, 0.9], 12)
    assert ((low < truth) & (truth < high)).sum() >= 50, "of 60, 57 are due"


def test_one_group_alone_or_a_class_has_no_interval():
    spec, sums = build_spec(["random"], [], metrics=["pxap(bins=4,by_class=true)"]), {}
    counted = Score({"positive": np.arange(5), "negative": np.arange(5)[::-1]})
    add_score(sums, counted, "group 03")
    add_score(sums, counted, "group 03")
    about = {"metric": "pxap", "model": "n", "method": "random", "target": "none"}
    rows = [{**about, "scope": scope, "kind": kind, "values": values} for kind, values in sums.items() for scope in ("all", "7")]
    table = pa.Table.from_pylist(rows, schema.PARTIALS)
    found_table = summarise_partials(table, spec)
    found = found_table.to_pylist()
    assert {(row["scope"], row["n"], row["ci_low"], row["diff_random"], row["diff_random_low"]) for row in found} == {
        ("all", 2, None, 0, None), ("7", 2, None, 0, None),
    }  # fmt: skip
    reasons = {row["scope"]: dict(row["reasons"]) for row in add_reasons(found_table, spec).to_pylist()}
    assert reasons["7"]["ci_low"] == "of the images of a class or pair nothing is kept but their sums"
    assert reasons["all"]["ci_low"].startswith("there are fewer than two")
    assert set(drop_groups(table)["kind"].to_pylist()) == {"n", "positive", "negative"}
    assert set(by_group(sums)) == {"group 03"} and set(by_group(sums)["group 03"]) == {"n", "positive", "negative"}


def score_rows(metrics, order):
    rows = [
        {"image_id": f"i{i}", "model": "m", "method": "cam", "target": target, "class_id": i, "label": None, "metric": metric}
        | ({"value": i / 8, "reason": None} if i else {"value": None, "reason": f"no {metric}"})
        for metric in metrics
        for i in range(3)
        for target in ("label", "finer")
    ]
    return pa.Table.from_pylist([rows[i] for i in order], schema.SCORES)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)))
def test_scores_widen_to_the_same_rows_in_any_order(order):
    found = widen(score_rows(["a", "b"], order), ["b", "a", "never"]).to_pylist()
    assert [(row["image_id"], row["target"], row["a"], row["b"], row["never"]) for row in found] == [
        (f"i{i}", target, *([i / 8] * 2 if i else [None] * 2), None) for i in range(3) for target in ("finer", "label")
    ]
    assert [dict(row["reasons"] or ()) for row in found] == [{"a": "no a", "b": "no b"}] * 2 + [{}] * 4


def test_partials_add_up_key_by_key():
    rows = [
        {"metric": "m", "model": "n", "method": method, "target": "t", "scope": "all", "kind": "hits", "values": values}
        for method, values in (("b", [1, 2]), ("a", [3, 4]), ("b", [10, 20]))
    ]
    found = add_partials(pa.Table.from_pylist(rows, schema.PARTIALS)).to_pylist()
    assert [(row["method"], row["values"]) for row in found] == [("a", [3, 4]), ("b", [11, 22])]
    assert add_partials(schema.PARTIALS.empty_table()).schema == schema.PARTIALS
