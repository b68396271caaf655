"""Analyses in a job: beside what it computes, on a run that is there, and again where only some classes have changed."""

import shutil
from dataclasses import replace

import pytest

from jobs import explain, reduce, score
from pipeline import tables
from pipeline.reduce.analyses import ANALYSES
from pipeline.refusal import Refusal
from pipeline.tables import schema
from tests.jobs import content, job, scoring_job
from tests.shards import dataset, good, tar_bytes

ALL = {"methods": ("grad_cam", "eigen_cam", "gradient"), "targets": ("label", "second"), "analyses": ("all",)}


def reduced(out, *flags: str) -> dict[str, list]:
    assert reduce.main(["--out", str(out), *flags]) == 0
    return content(out)


def computed(monkeypatch, name: str) -> list:
    """Every class, or every method, that an analysis is computed for from now on."""
    calls, entry = [], ANALYSES[name]

    def spy(images, **settings):
        images = [*images]
        calls.append(sorted({image.label for image in images}))
        return entry.function(images, **settings)

    monkeypatch.setitem(ANALYSES, name, replace(entry, function=spy))
    return calls


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A run with every analysis."""
    out = tmp_path_factory.mktemp("whole")
    assert explain.run(scoring_job(source, out, **ALL)).complete
    return out


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def test_every_analysis_has_a_table_and_every_table_an_analysis(whole):
    assert ANALYSES.keys() == schema.ANALYSES.keys() <= {*tables.open(str(whole)).tables}


def test_every_table_of_a_whole_run_has_rows_with_the_columns_of_its_schema(whole):
    run = tables.open(str(whole))
    for name, columns in schema.ANALYSES.items():
        rows = run.table(name)
        assert rows.schema.equals(columns) and rows.num_rows, name
        assert all(entry["rows"] <= rows.num_rows for entry in run.manifest["files"] if entry["table"] == name)


def test_the_manifest_names_the_analyses_with_their_versions(whole):
    entries = tables.open(str(whole)).manifest["analyses"]
    assert {entry["name"]: entry["version"] for entry in entries} == {name: entry.version for name, entry in ANALYSES.items()}


def test_a_run_is_reduced_to_what_its_job_would_have_had(source, whole, tmp_path):
    explain.run(scoring_job(source, tmp_path, **ALL | {"analyses": ()}))
    before = content(tmp_path)
    assert not before.keys() & ANALYSES.keys()
    after = reduced(tmp_path, "--analyses", "all")
    assert after == content(whole) and {name: after[name] for name in before} == before


def test_the_same_again_publishes_nothing_and_another_analysis_or_setting_does(source, tmp_path):
    first = explain.run(job(source, tmp_path, analyses=("disagreement",)))
    assert not explain.run(job(source, tmp_path, analyses=("disagreement",))).new
    plain = explain.run(job(source, tmp_path))
    assert plain.new and plain.dropped == {"analyses": ["disagreement"]} and plain.run_id != first.run_id
    added = explain.run(job(source, tmp_path, add=True, analyses=("disagreement",)))
    assert added.new and "disagreement" in tables.open(str(tmp_path)).tables


def test_a_scored_run_and_an_added_method_keep_the_analyses(source, out):
    before = content(out)
    assert score.main(["--out", str(out), "--metrics", "roc_auc"]) == 0
    assert content(out)["disagreement"] == before["disagreement"]
    explain.run(job(source, out, methods=("layer_cam",), targets=("label",), add=True))
    rows = content(out)["disagreement"]
    assert [row["methods"] for row in rows] == [row["methods"] + 1 for row in before["disagreement"]]


def test_only_the_class_that_changed_is_computed_anew(tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    dataset(folder, shards=3, images=5)  # five classes in each
    source = f"{folder}/*.tar"
    wanted = job(source, tmp_path / "out", methods=("grad_cam", "eigen_cam"), analyses=("disagreement",))
    calls = computed(monkeypatch, "disagreement")
    explain.run(wanted)
    assert sorted(calls) == [[0], [1], [2], [3], [4]]
    calls.clear()
    (folder / "more.tar").write_bytes(tar_bytes([("new", good(32))]))
    explain.run(wanted)
    assert calls == [[2]]
    assert len(tables.open(wanted.out).table("disagreement")) == 2 * 16
    calls.clear()
    (folder / "more.tar").unlink()
    explain.run(wanted)
    assert calls == [[2]], "the last run alone is looked at"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"analyses": ("disagreements",)}, "disagreement"),
        ({"analyses": ("other=disagreement",)}, "alias"),
        ({"analyses": ("disagreement(most=2)",)}, "most"),
        ({"analyses": ("disagreement",), "methods": ("grad_cam",)}, "fewer than two"),
    ],
    ids=["name", "alias", "setting", "one-method"],
)
def test_an_analysis_that_cannot_be_is_refused_before_anything_is_explained(source, tmp_path, changes, message):
    with pytest.raises(Refusal, match=message):
        explain.run(job(source, tmp_path, **changes))
    assert not (tmp_path / "tasks").exists()


def test_what_a_run_cannot_have_is_skipped_with_the_reason(source, tmp_path):
    explain.run(job(source, tmp_path, methods=("grad_cam",), targets=("label",), analyses=("all",)))
    skipped = {entry["analysis"]: entry["reason"] for entry in tables.open(str(tmp_path)).manifest["skipped"]}
    assert "fewer than two" in skipped["disagreement"]
    assert not skipped.keys() & {*tables.open(str(tmp_path)).tables}


def test_a_dry_job_says_which_analyses_it_would_compute(out, capsys):
    assert reduce.main(["--out", str(out), "--analyses", "agreement", "--dry"]) == 0
    assert "agreement" in capsys.readouterr().out.splitlines()[-2]


def test_reduce_refuses_without_a_name(out, capsys):
    assert reduce.main(["--out", str(out), "--analyses"]) == 2
    assert "--analyses agreement" in capsys.readouterr().err


def test_pairs_stand_beside_other_targets(source, tmp_path):
    pairs = tmp_path / "pairs.json"
    pairs.write_text('{"pairs": [{"classes": [0, 1], "parts": ["head"]}, {"classes": [0, 2], "parts": ["wing"]}]}')
    targets = ("label", "finer", f"cues=pairs:{pairs}")
    explain.run(scoring_job(source, tmp_path / "out", methods=("grad_cam", "eigen_cam"), targets=targets, analyses=("all",)))
    run = tables.open(str(tmp_path / "out"))
    rows = run.sql(
        "SELECT label, a, b, count(*) AS n FROM class_sensitivity WHERE method = 'grad_cam' GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    plain = {(label, "label", "finer") for label in range(5)}
    of_pairs = {
        (0, "cues#own", "cues#other_1"),
        (0, "cues#own", "cues#other_2"),
        (1, "cues#own", "cues#other_1"),
        (2, "cues#own", "cues#other_1"),
    }
    assert {(row["label"], row["a"], row["b"]) for row in rows} == plain | of_pairs
    own = "SELECT count(*) AS n FROM disagreement WHERE target = 'cues#finer_2'"
    assert run.sql(own).to_pylist() == [{"n": 3}], "images 0, 5 and 10 are of class 0"


def test_images_without_labels_have_what_needs_none(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    samples = [(f"image{seed}", {"png": good(seed)["png"]}) for seed in range(4)]
    (folder / "a.tar").write_bytes(tar_bytes(samples))
    settings = {"methods": ("grad_cam", "eigen_cam"), "targets": ("predicted", "second"), "metrics": ("complexity", "tie_share")}
    explain.run(
        scoring_job(f"{folder}/a.tar", tmp_path / "out", **settings, analyses=("all",), analysis_args=("aggatt.metric=complexity",))
    )
    run = tables.open(str(tmp_path / "out"))
    rows = {name: run.table(name).num_rows for name in ANALYSES if name in run.tables}
    assert rows["disagreement"] == 4 * 2 and rows["map_boxes"] and rows["aggatt"] and rows["agreement"]
    assert rows["mean_maps"] == rows["background"] == rows["background_summary"] == 0
    assert {entry["analysis"] for entry in run.manifest["skipped"] if "analysis" in entry} == {
        "class_sensitivity",
        "class_sensitivity_summary",
    }


def test_classes_that_share_a_file_keep_their_own_rows(tmp_path):
    """With 64 files for classes, class 64 is in that of class 0."""
    folder = tmp_path / "shards"
    folder.mkdir()
    samples = [(f"image{label}", {**good(label), "cls": str(label).encode(), "json": b"{}"}) for label in (0, 64, 65)]
    (folder / "a.tar").write_bytes(tar_bytes(samples))
    settings = {"backbone_args": ("num_classes=70",), "methods": ("grad_cam",), "targets": ("label",)}
    explain.run(job(f"{folder}/a.tar", tmp_path / "out", **settings, analyses=("mean_maps",)))
    run = tables.open(str(tmp_path / "out"))
    rows = run.sql("SELECT class_id, n FROM mean_maps WHERE subset = 'all' ORDER BY ALL").to_pylist()
    assert rows == [{"class_id": label, "n": 1} for label in (0, 64, 65)] and len(run.urls("mean_maps")) == 2


def test_a_bucket_holds_the_same(source, whole, s3):
    explain.run(scoring_job(source, f"{s3}/atlas", **ALL))
    ours, expected = content(f"{s3}/atlas"), content(whole)
    assert {name: ours[name] for name in ANALYSES} == {name: expected[name] for name in ANALYSES}


@pytest.mark.ray
def test_ray_computes_the_same(cluster, source, whole, tmp_path):
    explain.run(scoring_job(source, tmp_path, **ALL, workers=1))
    ours, expected = content(tmp_path), content(whole)
    assert {name: ours[name] for name in ANALYSES} == {name: expected[name] for name in ANALYSES}
