"""Metrics of maps that a run already holds: read from the tables, with 8 bits a cell, and published beside all the run held."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jobs import explain, score
from jobs.demo import Demo, job_of
from pipeline import backbones, tables
from pipeline.maps.quantise import dequantise, quantise, rounded
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan import rescore
from pipeline.plan.rescore import choice_of
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.stages import explainer
from tests.bench.stored_maps import difference
from tests.conditioning import is_stored
from tests.jobs import content, scoring_job
from tests.shards import dataset

LATER = ("ad", "ai", "ag", "pxap", "iou")
FLAGS = ("--metrics", *LATER)


def scored(out, *flags) -> dict[str, list]:
    assert score.main(["--out", str(out), *flags]) == 0
    return content(out)


@pytest.fixture(scope="module")
def explained(source, tmp_path_factory):
    """A run with one metric."""
    out = tmp_path_factory.mktemp("explained")
    assert explain.run(scoring_job(source, out, metrics=("energy",))).complete
    return out


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A run with all of the metrics, from the maps as they are computed."""
    out = tmp_path_factory.mktemp("whole")
    explain.run(scoring_job(source, out, metrics=("energy", *LATER)))
    return content(out)


@pytest.fixture
def out(explained, tmp_path):
    return shutil.copytree(explained, tmp_path / "out")


def test_a_scored_run_holds_everything_it_held_and_the_new_metrics_beside_it(out, whole):
    before, found = content(out), scored(out, *FLAGS)
    for table in ("images", "features", "predictions", "maps", "errors"):
        assert found[table] == before[table]
    assert [row["energy"] for row in found["metrics"]] == [row["energy"] for row in before["metrics"]]
    assert [row for row in found["summary"] if row["metric"] == "energy"] == before["summary"]
    assert found["metrics"][0].keys() == whole["metrics"][0].keys()
    assert [row["reasons"] for row in found["metrics"]] == [row["reasons"] for row in whole["metrics"]]
    for row, exact in zip(found["metrics"], whole["metrics"], strict=True):
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        assert numbers == pytest.approx({key: exact[key] for key in numbers}, abs=0.02)  # a pixel at the threshold of iou, of 64 x 64
    assert {(row["metric"], row["stored"]) for row in found["summary"]} == {
        *((column, False) for column in ("energy",)),
        *((column, True) for metric in LATER for column in METRICS[metric].columns),
    }
    told = {entry["name"]: entry["stored"] for entry in tables.open(str(out)).manifest["metrics"]}
    assert told == {"energy": False, **dict.fromkeys(LATER, True)}


def test_a_second_time_computes_nothing_and_one_more_metric_only_that(out):
    scored(out, *FLAGS)
    receipts = set(out.glob("tasks/**/receipt.json"))
    current = (out / "current.json").read_text()
    before = scored(out, *FLAGS)
    assert set(out.glob("tasks/**/receipt.json")) == receipts
    assert (out / "current.json").read_text() == current
    found = scored(out, "--metrics", "f1")
    new = [json.loads(path.read_text()) for path in set(out.glob("tasks/**/receipt.json")) - receipts]
    assert {len(receipt["cells"]) for receipt in new} == {4}, "one metric of four maps"
    same = before["metrics"][0].keys() - {"reasons"}
    assert [{k: row[k] for k in same} for row in found["metrics"]] == [{k: row[k] for k in same} for row in before["metrics"]]
    assert found["partials"] == before["partials"]


def test_files_that_did_not_change_are_copied(out):
    before = {entry["path"] for entry in tables.open(str(out)).manifest["files"]}
    scored(out, *FLAGS)
    after = {entry["path"] for entry in tables.open(str(out)).manifest["files"]}
    assert {path.split("/")[0] for path in after - before} == {"metrics", "partials", "summary", "curves"}


def test_explain_asked_for_the_same_metrics_scores_the_maps_as_it_computes_them(source, out, whole):
    scored(out, *FLAGS)
    explain.run(scoring_job(source, out, metrics=("energy", *LATER)))
    assert content(out) == whole
    before = (out / "current.json").read_text()
    scored(out, *FLAGS)
    assert (out / "current.json").read_text() == before, "there is nothing a stored map would add"


def test_recompute_gives_what_explain_gives(out, whole):
    scored(out, *FLAGS)
    found = scored(out, *FLAGS, "--recompute")
    for table in ("metrics", "partials", "summary"):
        assert found[table] == whole[table]


def test_a_run_without_metrics_gets_its_controls(source, tmp_path):
    explain.run(scoring_job(source, tmp_path, metrics=()))
    found = scored(tmp_path, "--metrics", "energy", "ad")
    assert {row["method"] for row in found["maps"]} == {"grad_cam", "fake_cam", "random"}
    rows = [row for row in found["summary"] if row["method"] == "grad_cam" and row["scope"] == "all"]
    assert all(row["n"] and row["diff_random"] is not None for row in rows)
    maps = {(row["image_id"], row["target"]): row for row in found["maps"] if row["method"] == "random"}
    again = scored(tmp_path, "--metrics", "iou")
    assert {(r["image_id"], r["target"]): r for r in again["maps"] if r["method"] == "random"} == maps


# What the creatures' maps on the network's grid lose at most, on average and for a single map: docs/stored_maps.md has more.
MEAN_LOST, MOST_LOST = 5e-3, 0.05
# What survives that maps of pixels are averaged down as well; thresholds and orders of single pixels do not.
ROBUST = {"energy", "ad", "ad_pred", "ag", "ag_pred", "insertion", "insertion_label"}
# What jumps: one of twelve maps changes sides, a crop is a row of pixels larger, and a small power makes much of the lowest of 256 steps.
JUMPS = {"max_box_acc_v2": 1 / 12, "saliency_metric": 0.25, "selectivity_ad_10": 0.1}


def test_metrics_of_stored_maps_are_near_those_of_float_maps(tmp_path):
    job = job_of(Demo(out=str(tmp_path), images_per_class=1))
    args = ("deletion.steps=4", "insertion.steps=4")
    job = replace(job, methods=("grad_cam", "gradient"), targets=("label",), workers=0, metric_args=args)
    rows = difference(job).to_pylist()
    more = {"iou_50", "rd_05", "deletion", "pxap", "remove_and_classify_50", "aopc", "selectivity_ad_100", "bbox_study_ad_s_b"}
    assert {row["metric"] for row in rows} > ROBUST | more | set(JUMPS)
    for row in rows:
        if row["method"] == "grad_cam" and row["metric"] in JUMPS:
            assert row["most"] <= JUMPS[row["metric"]], row
        elif row["method"] == "grad_cam":
            assert row["apart"] <= MEAN_LOST and row["most"] <= MOST_LOST, row
        if row["method"] == "gradient" and row["metric"] in ROBUST:
            assert row["apart"] <= 2 * MEAN_LOST and row["most"] <= MOST_LOST, row


def counted(monkeypatch, place, name: str) -> list[int]:
    """Images in each call of a function that takes a backbone and a batch."""
    passes, plain = [], getattr(place, name)

    def counting(backbone, x, *rest):
        passes.append(len(x))
        return plain(backbone, x, *rest)

    monkeypatch.setattr(place, name, counting)
    return passes


@pytest.mark.parametrize(("metric", "more"), [("energy", 0), ("ad", 1)])
def test_it_costs_one_look_at_each_image_and_what_the_metric_asks(source, tmp_path, monkeypatch, metric, more):
    methods = ("opti_cam(steps=2)", "rise(masks=20)", "integrated_gradients(steps=3)")
    explain.run(scoring_job(source, tmp_path, metrics=("pointing",), methods=methods, targets=("label",)))
    looks, masked = counted(monkeypatch, explainer, "run_forward"), counted(monkeypatch, backbones.Backbone, "logits")
    scored(tmp_path, "--metrics", metric)
    assert sum(looks) == 12
    assert sum(masked) == 12 * more * 5, "three methods and two controls"


def test_a_metric_without_a_single_row_has_its_column(out, monkeypatch):
    def broken(self, x):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(backbones.Backbone, "trunk", broken)
        found = scored(out, "--metrics", "ad")
    assert {row["ad"] for row in found["metrics"]} == {None}
    assert {row["message"] for row in found["errors"]} == {"out of memory"}


def test_only_images_with_a_map_are_scored(source, tmp_path):
    explain.run(scoring_job(source, tmp_path, metrics=("energy",), select="predicted = label"))
    before = content(tmp_path)
    found = scored(tmp_path, "--metrics", "f1")
    assert [row["image_id"] for row in found["metrics"]] == [row["image_id"] for row in before["metrics"]]
    assert len(found["metrics"]) < 12 * 4


def test_another_name_leaves_the_old_run_as_it_is(out):
    before = content(out)
    assert score.main(["--out", str(out), *FLAGS, "--as", "more"]) == 0
    assert content(out) == before
    assert {"ad", "energy"} < set(tables.open(str(out), "more").dataset("metrics").schema.names)


def test_an_older_run_is_scored_under_another_name(source, out, capsys):
    old = tables.open(str(out)).run_id
    scored(out, *FLAGS)
    assert score.main(["--out", str(out), "--metrics", "f1", "--run", old]) == 2
    assert "not the one published as 'default' any more" in capsys.readouterr().err
    assert score.main(["--out", str(out), "--metrics", "f1", "--run", old, "--as", "old"]) == 0
    assert {*tables.open(str(out), "old").dataset("metrics").schema.names} & {"ad", "energy", "f1"} == {"energy", "f1"}


def test_dry_says_what_would_be_computed(out, capsys):
    assert score.main(["--out", str(out), "--metrics", "ad", "--dry"]) == 0
    told = capsys.readouterr().out
    assert "scores ad grad_cam label: 6 of 6 tasks to compute" in told
    assert "maps grad_cam label: 0 of 6 tasks to compute" in told


def refused(out, *flags) -> str:
    with pytest.raises(Refusal) as refusal:
        score.run(score.Score(out=str(out), metrics=flags))
    return str(refusal.value)


def test_the_share_of_ties_of_a_stored_map_comes_with_what_goes_by_its_order(out):
    """Rounding makes ties and takes none away."""
    assert "tie_share" not in scored(out, "--metrics", "ad")["metrics"][0]
    found = scored(out, "--metrics", "rd")
    assert {row["stored"] for row in found["summary"] if row["metric"] in ("rd_05", "tie_share")} == {True}
    again = scored(out, "--recompute", "--metrics", "rd")
    assert {row["stored"] for row in again["summary"] if row["metric"] in ("rd_05", "tie_share")} == {False}
    ties = [{row["image_id"]: row["tie_share"] for row in each["metrics"] if row["method"] == "grad_cam"} for each in (found, again)]
    assert ties[0].keys() == ties[1].keys() and all(ties[0][image] >= ties[1][image] for image in ties[0])


def test_a_share_of_ties_that_is_there_by_another_name_is_enough(out):
    assert "ties" in scored(out, "--metrics", "ties=tie_share")["metrics"][0]
    columns = scored(out, "--metrics", "rd")["metrics"][0].keys()
    assert {"ties", "rd_05"} < columns and "tie_share" not in columns


def test_what_would_now_be_computed_otherwise_is_refused(out, monkeypatch):
    monkeypatch.setitem(METHODS, "grad_cam", METHODS["grad_cam"].__class__(**{**traits(METHODS["grad_cam"]), "version": 99}))
    assert "holds maps grad_cam label as another version" in refused(out, "ad")


def traits(entry) -> dict:
    return {"name": entry.name, "map": entry.map, "grid": entry.grid}


def test_a_shard_that_is_not_what_the_run_has_seen_is_refused(tmp_path):
    source = dataset(tmp_path / "shards")
    explain.run(scoring_job(source, tmp_path / "out", metrics=()))
    dataset(tmp_path / "other", shards=3, images=5)
    shutil.copy(tmp_path / "other" / "00001.tar", tmp_path / "shards" / "00001.tar")
    assert "shard 00001.tar is not what run" in refused(tmp_path / "out", "ad")


def test_maps_that_are_damaged_are_refused_until_explain_has_mended_them(out):
    before = content(out)
    for path in sorted(out.glob("tasks/**/maps.parquet"))[:1]:
        path.write_bytes(b"not what was written")
    assert "files of 1 task that" in refused(out, "f1") and content(out) == before
    explain.run(replace(rescore.job_of(tables.open(str(out)).manifest), out=str(out)))
    assert score.main(["--out", str(out), "--metrics", "f1"]) == 0
    assert content(out)["maps"] == before["maps"]


def test_a_wrong_name_or_no_metric_is_refused(out):
    assert "did you mean" in refused(out, "engery")
    assert "no metric is asked for" in refused(out)


# settings that are no single word or number
OTHERS = {
    "sanity": ["sanity(layers=(blocks.3.1, head,fc))", "sanity(layers=a)"],
    "extremal": ["extremal(areas=(0.05,0.1))", "extremal(areas=0.2)"],
}


def test_what_run_json_says_of_a_request_reads_back_as_the_request():
    for registry, what in ((METHODS, "method"), (METRICS, "metric")):
        for name in registry:
            for written in (name, f"mine={name}", *OTHERS.get(name, ())):
                asked = parse(written, registry, what)
                told = json.loads(json.dumps({"name": asked.alias, what: asked.name, **asked.args}))
                assert choice_of(told, registry, what) == asked == parse(asked.written, registry, what)


def test_a_map_comes_back_from_the_tables_within_half_a_step():
    maps = np.random.default_rng(0).normal(size=(5, 7, 7)).astype(np.float32)
    codes, low, high = quantise(maps)
    for i, map in enumerate(maps):
        assert np.array_equal(rounded(map), dequantise(codes[i], low[i], high[i], 7, 7))
        is_stored(rounded(map)[None], map[None])
