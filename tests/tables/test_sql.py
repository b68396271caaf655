"""Questions in SQL: views of runs, functions of maps, named queries with answers known by hand, and errors that name the columns."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from jobs import sql as job
from pipeline import storage, tables
from pipeline.maps.quantise import quantise, stored, summaries
from pipeline.reduce.compact import write_table
from pipeline.refusal import Refusal
from pipeline.tables import files, schema, sql
from pipeline.tables.queries import QUERIES

RUNS = ("20260101T0-a", "20260102T0-b")
BOX = [{"x0": 0.0, "y0": 0.0, "x1": 0.5, "y1": 0.5}]
LABELS = {"i0": (0, 0, 0.9, 0.9), "i1": (0, 1, 0.2, 0.7), "i2": (1, 1, 0.8, 0.8), "i3": (1, 0, 0.4, 0.5)}  # label, predicted, their p


def maps() -> dict[tuple[str, str], np.ndarray]:
    """Maps [4 4] by image and method: `a` peaks in the first cell; `b` with it on i0, in the opposite corner on the others."""
    grids = {}
    for image in LABELS:
        for method in ("a", "b", "random"):
            grid = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
            grid[(3, 3) if method == "b" and image != "i0" else (0, 0)] = 5
            grids[image, method] = grid
    return grids


def differences(metric: str, method: str, mean: float) -> dict[str, float]:
    """A paired difference to `random` and its interval, which holds 0 for one metric and method."""
    half = 0.25 if (metric, method) == ("ad", "b") else 0.1
    return {"diff_random": mean, "diff_random_low": mean - half, "diff_random_high": mean + half}


def rows(run: int) -> dict[str, list[dict]]:
    """The rows of each table; the second run differs in one mean."""
    names = ["wren", "robin"]
    images = [
        {"image_id": i, "label": own, "label_name": names[own], "boxes": BOX, "width": 640, "height": 480}
        for i, (own, *_) in LABELS.items()
    ]
    predictions = [
        {"image_id": i, "model": "m", "label": own, "predicted": other, "label_prob": p, "predicted_prob": q, "logits": [0.0, 1.0]}
        for i, (own, other, p, q) in LABELS.items()
    ]
    of_maps, metrics = [], []
    for (image, method), grid in maps().items():
        levels, low, high = quantise(grid[None])
        key = {"image_id": image, "model": "m", "method": method, "target": "label", "class_id": LABELS[image][0]}
        numbers = {name: float(values[0]) for name, values in summaries(grid[None]).items()}
        of_maps.append(
            key | {"height": 4, "width": 4, "map": levels[0].ravel(), "map_min": low[0], "map_max": high[0], "render": "bilinear"} | numbers
        )
        null = image == "i3" and method == "b"
        energy = None if null else {"a": 0.9, "b": 0.1, "random": 0.25}[method]
        metrics.append(key | {"label": LABELS[image][0], "energy": energy, "reasons": [("energy", "no box")] if null else None})
    means = {("ad", "lower"): {"a": 0.1, "b": 0.3, "random": 0.5}, ("ag", "higher"): {"a": 0.4, "b": 0.6, "random": 0.1 + run / 10}}
    summary = [
        {
            "model": "m",
            "method": method,
            "target": "label",
            "metric": metric,
            "scope": scope,
            "n": 4,
            "n_null": 0,
            "mean": mean,
            "ci_low": mean - 0.05,
            "ci_high": mean + 0.05,
            "better": better,
            **({} if method == "random" else differences(metric, method, mean - of_method["random"])),
        }
        for (metric, better), of_method in means.items()
        for method, mean in of_method.items()
        for scope in ("all", "0", "1")
    ]
    low, high = (0.1, 0.3), (-0.2, 0.1)
    for method, (start, stop) in {"a": low, "b": high}.items():
        ends = {"diff_label": (start + stop) / 2, "diff_label_low": start, "diff_label_high": stop}
        row = {"model": "m", "method": method, "metric": "energy", "scope": "all", "n": 4, "better": "higher"}
        summary.append(row | {"target": "finer", "mean": 0.5} | ends)
    class_one = {"model": "m", "method": "a", "target": "label", "class_id": 1, "class_images": 10, "left_out": 0}
    clusters = [
        class_one | {"cluster": 0, "n": 8, "share": 0.8, "suspicion": 0.1, "exemplars": ["i2"]},
        class_one | {"cluster": 1, "n": 2, "share": 0.2, "suspicion": 0.4, "exemplars": ["i3"]},
        class_one | {"class_id": 0, "cluster": 1, "n": 4, "share": 0.4, "suspicion": 0.3, "exemplars": ["i0"]},
        class_one | {"method": "random", "cluster": 1, "n": 1, "share": 0.1, "suspicion": 0.9, "exemplars": ["i1"]},
    ]
    errors = [{"image_id": f"x{i}", "shard": "s", "stage": "decode", "error": "Damaged", "message": f"m{i}"} for i in range(2)]
    of_run = {"images": images, "predictions": predictions, "maps": of_maps, "metrics": metrics, "summary": summary, "errors": errors}
    return of_run | of_analyses() | {"clusters": clusters}


def of_analyses() -> dict[str, list[dict]]:
    """The rows of the analyses: two methods that disagree most on i1, and two classes."""
    interval = {"ci_low": 0.0, "ci_high": 1.0, "n": 4}
    pairs = [{"a": "a", "b": "b", "spearman": -0.5}, {"a": "a", "b": "c", "spearman": 0.5}]
    disagreement = [
        {"image_id": i, "model": "m", "target": "label", "disagreement": 1 - 0.1 * k, "methods": 3, "pairs": pairs}
        for k, i in enumerate(("i1", "i2", "i3"))
    ]
    disagreement.append({"image_id": "i0", "model": "m", "target": "label", "disagreement": None, "methods": 2, "pairs": []})
    agreement = [
        {"kind": kind, "model": "m", "target": "label", "a": "a", "b": b, "with_controls": controls, "mean": mean, **interval}
        for kind, controls, b, mean in [("methods", False, "b", 0.2), ("methods", False, "c", 0.7), ("metrics", True, "d", 0.9)]
    ]
    alike = [
        {"model": "m", "method": m, "a": "label", "b": "second", "number": "spearman", "scope": scope, "mean": mean, **interval}
        for m, mean in (("a", 0.8), ("random", 0.0))
        for scope in ("all", "0")
    ]
    outside = [
        {"model": "m", "method": m, "target": "label", "number": number, "scope": scope, "mean": mean, **interval}
        for m in ("a", "random")
        for scope, share in (("all", 0.3), ("0", 0.2), ("1", 0.4))
        for number, mean in (("outside", share), ("area", 0.75))
    ]
    levels = np.zeros(16, int)
    levels[6] = 255
    drawn = {"height": 4, "width": 4, "map": levels, "map_min": 0.0, "map_max": 1.0, "render": "bilinear"}
    bins = [
        {
            "model": "m",
            "method": "a",
            "target": "label",
            "metric": "energy",
            "bin": b,
            "low": low,
            "high": high,
            "mean": 1 - low,
            **interval,
        }
        | {"examples": ["i0", "i1"], "colour_max": 1.0, **drawn}
        for b, low, high in ((2, 0.05, 0.5), (3, 0.5, 0.95))
    ]
    summaries = {"class_sensitivity_summary": alike, "background_summary": outside}
    return {"disagreement": disagreement, "agreement": agreement, "aggatt": bins, **summaries}


SCHEMAS = {
    "images": schema.IMAGES,
    "predictions": schema.predictions(2),
    "maps": schema.MAPS,
    "metrics": schema.metrics(["energy"]),
    "summary": schema.SUMMARY,
    "clusters": schema.ANALYSES["clusters"],
    "errors": schema.ERRORS,
    **{name: schema.ANALYSES[name] for name in of_analyses()},
}


def publish(out: str) -> str:
    """Two runs of one name and one of another, as a job publishes them."""
    for number, run in enumerate(RUNS):
        entries = []
        for name, content in rows(number).items():
            table = pa.Table.from_pylist(content, SCHEMAS[name])
            for part in [{"method": m} for m in ("a", "b", "random")] if name in schema.PARTITIONED else [{}]:
                folder = "".join(f"/method={method}" for method in part.values())
                chosen = pa.Table.from_pylist([row for row in table.to_pylist() if row.items() >= part.items()], SCHEMAS[name])
                path = f"{name}{folder}/part.parquet"
                entries.append(write_table(storage.join(out, "runs", run, path), path, name, chosen))
        manifest = {
            "files": entries,
            "previous": RUNS[0] if number else None,
            "backbone": {"name": "m"},
            "counts": {"images": 6, "explained": 4, "failed": 2, "errors": 2},
            "passes": {"look": {"images": 4, "forwards": 4, "seconds": 1.0}, "rise": {"images": 4, "forwards": 32, "seconds": 8.0}},
        }
        files.write_json(storage.join(out, "runs", run, "run.json"), manifest)
    files.write_json(storage.join(out, "current.json"), {"default": RUNS[1], "old one": RUNS[0]})
    return out


@pytest.fixture
def out(tmp_path) -> str:
    return publish(str(tmp_path / "it's [out]"))


@pytest.fixture
def ask(out, capsys):
    """Ask as on the command line; returns the rows."""

    def rows_of(*words: str, code: int = 0):
        assert job.main(["--out", out, *words, "--format", "json"]) == code
        printed = capsys.readouterr()
        return [json.loads(line) for line in printed.out.splitlines()] if code == 0 else printed.err

    return rows_of


@pytest.fixture
def connection(out):
    with tables.open(out).connect() as opened:
        yield opened


def test_map_functions_agree_with_the_stored_maps(connection):
    fetched = connection.sql("SELECT maps AS m, map_floats(maps) AS floats, map_at(maps, 0.9, 0.3) AS at FROM maps").fetchall()
    assert len(fetched) == 12
    for row, floats, at in fetched:
        np.testing.assert_allclose(np.reshape(floats, (4, 4)), stored(row), rtol=2**-22, atol=2**-22 * 6)
        assert at == floats[4 * 1 + 3]


@pytest.mark.parametrize(
    ("box", "weights"),
    [
        ((0, 0, 1, 1), np.ones((4, 4))),
        ((0, 0, 0.5, 0.5), np.outer([1, 1, 0, 0], [1, 1, 0, 0])),
        ((0.125, 0, 0.5, 0.375), np.outer([1, 0.5, 0, 0], [0.5, 1, 0, 0])),
        ((0.8, 0.9, 1, 1), np.outer([0, 0, 0, 0.4], [0, 0, 0, 0.8])),
    ],
)
def test_what_lies_in_a_box_weighs_a_cell_by_its_share_inside(connection, box, weights):
    struct = "{" + ", ".join(f"{corner}: {place}::DOUBLE" for corner, place in zip(("x0", "y0", "x1", "y1"), box, strict=True)) + "}"
    fetched = connection.sql(f"SELECT maps, map_mean_in(maps, {struct}), map_share_in(maps, {struct}) FROM maps").fetchall()
    for row, mean, share in fetched:
        grid = stored(row).astype(np.float64)
        positive = grid.clip(0)
        np.testing.assert_allclose(
            [mean, share], [np.average(grid, weights=weights), (positive * weights).sum() / positive.sum()], rtol=1e-6
        )


def test_functions_follow_a_grid_that_lies_over_a_part_of_the_image(connection):
    """They give what the drawing gives where it is cells: 4 x 4 cells over the first 12 x 12 pixels of 16 x 20."""
    part = "SELECT struct_update(maps, render := 'bilinear:0,0,12,12/16,20') AS m FROM maps"
    rows_of = connection.sql(
        f"""SELECT m, map_floats(m), map_at(m, 4.5 / 20, 10.5 / 16), map_at(m, 19.5 / 20, 15.5 / 16),
        map_mean_in(m, {{x0: 0.0, y0: 0.0, x1: 1.0, y1: 1.0}}), map_share_in(m, {{x0: 0.0, y0: 0.0, x1: 12 / 20, y1: 12 / 16}}) FROM ({part})"""
    ).fetchall()
    for row, floats, inside, beyond, mean, share in rows_of:
        grid = stored(row).astype(np.float64)
        columns, lines = np.array([3, 3, 3, 11]), np.array([3, 3, 3, 7])  # pixels of each cell, with those beyond the part
        areas = np.outer(lines, columns)
        assert (inside, beyond) == (floats[4 * 3 + 1], floats[15])
        np.testing.assert_allclose(mean, np.average(grid, weights=areas), rtol=1e-6)
        np.testing.assert_allclose(share, 9 * grid.clip(0).sum() / (grid.clip(0) * areas).sum(), rtol=1e-6)


def test_a_place_on_the_far_edge_is_in_the_last_cell(connection):
    ends = connection.sql("SELECT map_at(maps, 1, 1), map_floats(maps)[16], map_at(maps, 0, 0), map_floats(maps)[1] FROM maps").fetchall()
    assert all(last == far and first == near for far, last, near, first in ends)


def test_the_most_faithful_method_has_the_best_mean_rank(ask):
    ranks = {"a": (1 + 2) / 2, "b": (2 + 1) / 2, "random": 3.0}
    answer = ask("--query", "faithful")
    assert {row["method"]: row["mean_rank"] for row in answer} == ranks
    assert answer[-1]["method"] == "random" and answer[0]["ranks"] == "ad 1, ag 2"
    numbers = {row["method"]: (row["above_random"], row["numbers"]) for row in answer}
    assert numbers["a"] == (2, "ad 0.100 [0.050, 0.150], ag 0.400 [0.350, 0.450]")
    assert numbers["b"] == (1, "ad 0.300 [0.250, 0.350], ag 0.600 [0.550, 0.650]"), "its interval in ad holds no difference"
    assert numbers["random"][0] == 0


def test_the_most_faithful_method_of_a_class_is_no_control(ask):
    answer = ask("--query", "faithful_by_class")
    assert [(row["class_name"], row["best"], row["above_random"], row["worst"], row["metrics"]) for row in answer] == [
        ("wren", "a", 2, "b", 2),
        ("robin", "a", 2, "b", 2),
    ]


def test_methods_disagree_most_on_the_first_image_and_two_of_them_most_of_all(ask):
    answer = ask("--query", "disagreement")
    assert [(row["image_id"], row["disagreement"], row["least_alike"]) for row in answer] == [
        ("i1", 1, "a, b"),
        ("i2", 0.9, "a, b"),
        ("i3", 0.8, "a, b"),
    ]
    assert [row["class_name"] for row in ask("--query", "disagreement", "--set", "limit=1")] == ["wren"]


def test_methods_and_metrics_that_agree_most_come_first(ask):
    assert [(row["a"], row["b"], row["agreement"], row["low"], row["high"]) for row in ask("--query", "agreement")] == [
        ("a", "c", 0.7, 0, 1),
        ("a", "b", 0.2, 0, 1),
    ]
    assert ask("--query", "agreement", "--set", "kind=metrics") == []
    assert [row["b"] for row in ask("--query", "agreement", "--set", "kind=metrics", "--set", "controls=yes")] == ["d"]


def test_class_sensitivity_is_told_of_all_images_beside_its_floor(ask):
    answer = ask("--query", "class_sensitivity")
    assert [(row["method"], row["likeness"], row["low"], row["high"]) for row in answer] == [("random", 0, 0, 1), ("a", 0.8, 0, 1)]


def test_the_background_is_told_by_class_without_the_controls(ask):
    answer = ask("--query", "background")
    assert [(row["class_name"], row["method"], row["outside"], row["area"]) for row in answer] == [
        ("robin", "a", 0.4, 0.75),
        ("all", "a", 0.3, 0.75),
        ("wren", "a", 0.2, 0.75),
    ]


def test_mean_maps_of_the_bins_are_told_by_their_peak(ask):
    answer = ask("--query", "aggatt")
    assert [(row["bin"], row["score"], row["peak_x"], row["peak_y"], row["example"]) for row in answer] == [
        ("5 to 50 %", 0.95, 0.63, 0.38, "i0"),
        ("50 to 95 %", 0.5, 0.63, 0.38, "i0"),
    ]


def test_right_outside_lists_right_images_alone_lowest_energy_first(ask):
    assert [(row["image_id"], row["energy"], row["lowest_method"]) for row in ask("--query", "right_outside")] == [
        ("i0", 0.5, "b"),
        ("i2", 0.5, "b"),
    ]


def test_hard_pairs_count_both_directions(ask):
    (row,) = ask("--query", "hard_pairs")
    assert (row["class"], row["other"], row["taken_for_each_other"], row["share"]) == ("wren", "robin", 2, 0.5)
    assert row["mean_margin"] == 0.3  # (.7 - .2 + .5 - .4) / 2
    low, high = binomtest(2, 4).proportion_ci(0.95, "wilson")
    assert (row["share_low"], row["share_high"]) == (round(low, 3), round(high, 3))


def test_accuracy_has_its_interval_and_its_chance(ask):
    """Two of four are right; either class is predicted of one half, and so right by chance in one half."""
    whole, *classes = ask("--query", "accuracy")
    low, high = binomtest(2, 4).proportion_ci(0.95, "wilson")
    assert whole == {"class_id": None, "class_name": None, "images": 4, "accuracy": 0.5, "low": round(low, 4), "high": round(high, 4)} | {
        "chance": 0.5,
        "model": "m",
    }
    assert [(row["class_name"], row["images"], row["accuracy"], row["chance"]) for row in classes] == [
        ("wren", 2, 0.5, 0.5),
        ("robin", 2, 0.5, 0.5),
    ]


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 20), (20, 20), (517, 1000)])
def test_the_interval_of_a_share_is_wilson_s(connection, k, n):
    [(ends,)] = connection.sql(f"SELECT share_interval({k}, {n})").fetchall()
    low, high = binomtest(k, n).proportion_ci(0.95, "wilson")
    assert ends == {"low": pytest.approx(low, abs=1e-12), "high": pytest.approx(high, abs=1e-12)}
    assert connection.sql("SELECT share_interval(0, 0)").fetchall() == [(None,)]


def test_the_summary_of_a_class_has_its_name(connection):
    rows = connection.sql("SELECT DISTINCT scope, class_name FROM summary").fetchall()
    assert {*rows} == {("all", None), ("0", "wren"), ("1", "robin")}


def test_columns_that_a_run_of_an_earlier_version_lacks_are_null_in_sql(out):
    run = tables.open(out)
    (url,) = run.urls("summary")
    expected = pq.read_table(url)
    old = expected.drop_columns([name for name in expected.column_names if name.startswith(("random", "fake_cam"))] + ["reasons"])
    pq.write_table(old, url)
    found = run.sql("SELECT * FROM summary")
    assert {*found.column_names} == {*expected.column_names, "class_name"} and found.num_rows == old.num_rows
    assert found.select(old.column_names).sort_by("metric").equals(old.sort_by("metric")) and found["random"].null_count == old.num_rows
    assert job.main(["--out", out, "--query", "finer_changed"]) == 0


def test_what_finer_changed_is_told_by_its_interval(ask):
    assert {row["method"]: row["verdict"] for row in ask("--query", "finer_changed")} == {"a": "better", "b": "cannot be told"}


def test_what_finer_changed_is_told_of_chosen_metrics(ask):
    assert len(ask("--query", "finer_changed", "--set", "metric=ener%")) == 2
    assert ask("--query", "finer_changed", "--set", "metric=iou%") == []


def test_suspected_label_errors_come_surest_first(ask):
    answer = ask("--query", "label_errors")
    assert [(row["image_id"], row["label_name"], row["predicted_name"]) for row in answer] == [
        ("i1", "wren", "robin"),
        ("i3", "robin", "wren"),
    ]


def test_small_clusters_come_most_suspicious_first(ask):
    answer = ask("--query", "suspicious")
    assert [(row["class_name"], row["cluster"], row["suspicion"]) for row in answer] == [("robin", 1, 0.4), ("wren", 1, 0.3)]
    low, high = binomtest(2, 10).proportion_ci(0.95, "wilson")
    assert (answer[0]["share_low"], answer[0]["share_high"]) == (round(low, 3), round(high, 3))
    assert len(ask("--query", "suspicious", "--set", "share=0.8")) == 3
    assert [row["class_name"] for row in ask("--query", "suspicious", "--set", "share=0.3")] == ["robin"]


def test_nulls_and_errors_are_counted_by_reason(ask):
    answer = {row["reason"]: (row["place"], row["rows"], row["example"]) for row in ask("--query", "nulls")}
    assert answer == {"Damaged": ("decode", 2, "x0"), "energy: no box": ("metric b", 1, "i3")}


def test_costs_are_those_of_the_manifest(ask):
    assert [(row["payer"], row["forwards_per_image"], row["ms_per_image"]) for row in ask("--query", "costs")] == [
        ("rise", 8, 2000),
        ("look", 1, 250),
    ]


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda query: query.name)
def test_every_named_query_says_what_it_answers_and_uses_its_settings(query, ask):
    assert query.question.split(".")[0].endswith("?") or "?" in query.question
    assert ask("--query", query.name)
    for name, setting in query.settings.items():
        assert f"${name}" in query.sql and setting.meaning
        if setting.default.isdigit():
            assert len(ask("--query", query.name, "--set", f"{name}=1")) == 1


def test_two_runs_are_now_and_before(ask):
    changed = "SELECT now.mean - before.mean AS moved FROM now.summary now JOIN before.summary before USING (method, target, metric, scope)"
    for against in ("previous", RUNS[0], "old one"):
        moved = [row["moved"] for row in ask("--against", against, changed)]
        assert sorted(set(np.round(moved, 6))) == [0, 0.1]


def test_any_run_can_be_asked_by_its_id(ask):
    for run, mean in zip(RUNS, (0.1, 0.2), strict=True):
        question = "SELECT mean FROM summary WHERE method = 'random' AND metric = 'ag' AND scope = 'all'"
        assert ask("--run", run, question) == [{"mean": mean}]


def test_several_names_stand_side_by_side(ask):
    answer = ask("--name", "default", "--name", "old one", "SELECT name, count(*) AS n FROM images GROUP BY ALL ORDER BY ALL")
    assert answer == [{"name": "default", "n": 4}, {"name": "old one", "n": 4}]
    assert ask("--name", "default", "--name", "old one", 'SELECT count(*) AS n FROM "old one".maps') == [{"n": 12}]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["SELECT energi FROM metrics"], ["energi", "metrics has image_id", "energy"]),
        (["SELECT energy FROM metric"], ["metric", "the tables are", "metrics"]),
        (["SELECT FROM WHERE"], ["syntax error"]),
        (["SELECT iou FROM map_boxes"], ["lacks map_boxes", "atlas reduce --analyses map_boxes"]),
        (["SELECT label_name::INT FROM images"], ["wren", "images has"]),
        (["--query", "faithfull"], ["faithfull", "faithful"]),
        (["--query", "disagreement", "--set", "limits=3"], ["limits", "limit"]),
        (["--query", "disagreement", "--set", "limit=few"], ["few", "whole number"]),
        (["--query", "disagreement", "--set", "limit"], ["NAME=VALUE"]),
        (["SELECT 1", "--set", "limit=3"], ["--set", "--query"]),
        (["SELECT 1", "--query", "nulls"], ["--query"]),
        ([], ["--query"]),
        (["SELECT 1", "--name", "nobody"], ["nobody", "default"]),
        (["SELECT 1", "--run", "20260103"], ["20260103"]),
        (["SELECT 1", "--against", "20260103"], ["20260103"]),
        (["SELECT 1", "--run", RUNS[0], "--against", "previous"], ["first run"]),
        (["SELECT 1", "--name", "default", "--name", "old one", "--against", "previous"], ["--against"]),
    ],
)
def test_a_wrong_question_is_one_line_that_names_what_there_is(ask, words, parts):
    message = ask(*words, code=2)
    assert message.startswith("error: ") and message.count("\n") == 1
    assert all(part in message for part in parts), message


def test_every_format_holds_the_same_rows(out, tmp_path, capsys):
    line = ["--out", out, "SELECT image_id, method, energy FROM metrics ORDER BY ALL"]
    expected = tables.open(out).sql(line[-1]).to_pylist()
    assert job.main([*line, "--format", "parquet", "--to", str(tmp_path / "answer.parquet")]) == 0
    assert pq.read_table(tmp_path / "answer.parquet").to_pylist() == expected
    assert job.main([*line, "--format", "csv"]) == 0
    read = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [(row["image_id"], row["method"]) for row in read] == [(row["image_id"], row["method"]) for row in expected]
    assert [np.float32(row["energy"]) if row["energy"] else None for row in read] == [
        row["energy"] and np.float32(row["energy"]) for row in expected
    ]
    assert job.main([*line, "--to", str(tmp_path / "answer.txt")]) == 0
    assert job.main(line) == 0
    assert capsys.readouterr().out == (tmp_path / "answer.txt").read_text()
    assert job.main([*line, "--format", "parquet"]) == 2


def test_the_list_shows_tables_functions_and_queries(out, capsys):
    assert job.main(["--out", out, "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*QUERIES, *SCHEMAS, "map_share_in", "label_name", "limit=20"))


def test_nothing_is_written_below_out_and_a_bucket_serves_as_well(s3, monkeypatch):
    out = publish(f"{s3}/deep/atlas")
    before = {path: record["ETag"] for path, record in files.below(out).items()}
    assert job.main(["--out", out, "--query", "disagreement"]) == 0
    assert tables.open(out).sql("SELECT count(*) AS n FROM maps").to_pylist() == [{"n": 12}]
    assert {path: record["ETag"] for path, record in files.below(out).items()} == before


def test_a_joined_row_is_drawn_as_the_row_of_maps(out):
    run = tables.open(out)
    alone = run.sql("SELECT * FROM maps ORDER BY image_id, method LIMIT 1").to_pylist()[0]
    for one, other in (("maps", "images"), ("images", "maps")):
        joined = run.sql(f"SELECT * FROM {one} JOIN {other} USING (image_id) ORDER BY image_id, method LIMIT 1").to_pylist()[0]
        assert {joined["width"], joined["width_1"]} == {4, 640}
        np.testing.assert_array_equal(tables.render(joined, (8, 8)), tables.render(alone, (8, 8)))
    with pytest.raises(ValueError, match="cells"):
        tables.render({**alone, "height": 480})


def test_a_question_from_python_names_the_columns_too(out):
    with pytest.raises(Refusal, match="metrics has"):
        tables.open(out).sql("SELECT energi FROM metrics")


def test_the_functions_of_maps_are_all_listed():
    with sql.connect({}) as connection:
        macros = connection.sql("SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'macro' AND NOT internal")
        assert {signature.partition("(")[0] for signature in sql.FUNCTIONS} <= {name for (name,) in macros.fetchall()}
