"""The whole job, from shards to a published run, on real shards in real folders and buckets, with and without Ray."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest

from jobs import explain
from pipeline import tables
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse_all
from pipeline.targets import TARGETS
from tests.entries import fact
from tests.jobs import content, job
from tests.shards import dataset, encoded, good, picture, tar_bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path):
    return dataset(tmp_path / "shards")


@pytest.fixture
def plain(source, tmp_path):
    """An undisturbed run in this process, and its tables."""
    outcome = explain.run(job(source, tmp_path / "plain"))
    assert outcome.complete
    assert outcome.counts["failed"] == 0
    return content(tmp_path / "plain")


def test_a_folder_of_images_becomes_a_published_run(tmp_path):
    for i in range(6):
        (tmp_path / "images" / f"class{i % 5}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / f"class{i % 5}" / f"{i}.png").write_bytes(encoded(picture(i)))
    outcome = explain.run(job(str(tmp_path / "images"), tmp_path / "out", methods=("grad_cam",), targets=("label",)))
    found = content(tmp_path / "out")
    assert outcome.counts == {"images": 6, "explained": 6, "failed": 0, "shards": 1, "shards_failed": 0, "errors": 0}
    assert [(row["image_id"], row["label"], row["label_name"]) for row in found["images"]] == [
        (f"class{c}/{i}.png", c, f"class{c}") for c, i in [(0, 0), (0, 5), (1, 1), (2, 2), (3, 3), (4, 4)]
    ]
    assert {(row["class_id"], row["image_id"]) for row in found["maps"]} == {(row["label"], row["image_id"]) for row in found["images"]}


def test_tars_folders_and_parquet_of_the_same_images_give_the_same_maps(source, plain, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples = {f"image{i:03}": good(i) for i in range(12)}
    rows = [{"key": key, "image": members["png"], "label": int(members["cls"])} for key, members in samples.items()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "images.parquet", row_group_size=5)
    for key, members in samples.items():
        folder = tmp_path / "folders" / f"class{members['cls'].decode()}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.png").write_bytes(members["png"])

    def maps(tables):
        """Cells by image, method and target; noise follows the key, which is the file's path in a folder."""
        return {
            (Path(row["image_id"]).stem, row["method"], row["target"]): np.array(row["map"])
            for row in tables["maps"]
            if row["method"] != "random"
        }

    for place in ("images.parquet", "folders"):
        assert explain.run(job(str(tmp_path / place), tmp_path / f"out-{place}")).complete
        found, expected = maps(content(tmp_path / f"out-{place}")), maps(plain)
        assert found.keys() == expected.keys()
        # other neighbours in a batch: the last digits move, and with them a code of the 8-bit grid now and then
        assert max(int(np.abs(found[key].astype(int) - expected[key]).max()) for key in expected) <= 1


def test_a_run_holds_every_cell_and_says_what_it_is(source, plain, tmp_path):
    methods = {"cam", "grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam"}
    ids = {row["image_id"] for row in plain["images"]}
    assert len(ids) == 12
    expected = {(i, m, t) for i in ids for m in methods for t in ("label", "finer")} | {
        (i, m, "none") for i in ids for m in ("eigen_cam", "fake_cam", "random")
    }
    assert {(row["image_id"], row["method"], row["target"]) for row in plain["maps"]} == expected
    assert len(plain["maps"]) == len(expected)
    assert [row["predicted"] for row in plain["predictions"]] == [row["top5"][0]["class_id"] for row in plain["predictions"]]
    assert plain["images"][0]["boxes"] == [{"x0": 0.25, "y0": 0.25, "x1": 0.75, "y1": 0.5}]
    run = tables.open(str(tmp_path / "plain"))
    facts = run.manifest
    assert facts["counts"]["images"] == 12
    assert {entry["table"] for entry in facts["files"]} == {"images", "features", "predictions", "maps", "errors"}
    for entry in facts["files"]:
        assert (tmp_path / "plain" / "runs" / run.run_id / entry["path"]).stat().st_size == entry["bytes"]
    assert {cell["method"] for cell in facts["cells"]} == methods | {"eigen_cam", "fake_cam", "random", None}


def test_published_files_are_plain_parquet_for_any_engine(plain, tmp_path):
    import polars

    run = tables.open(str(tmp_path / "plain"))
    glob = str(tmp_path / "plain" / "runs" / run.run_id / "maps" / "**" / "*.parquet")
    frame = polars.scan_parquet(glob, hive_partitioning=True).collect()
    assert len(frame) == len(plain["maps"])
    assert set(frame["method"]) == {row["method"] for row in plain["maps"]}
    ids = run.dataset("images").to_table()["image_id"].to_pylist()
    assert ids == sorted(ids)


def test_the_same_plan_again_publishes_nothing(source, plain, tmp_path, capsys):
    before = (tmp_path / "plain" / "current.json").read_text()
    outcome = explain.run(job(source, tmp_path / "plain"))
    assert not outcome.new
    assert (tmp_path / "plain" / "current.json").read_text() == before
    assert explain.report(outcome) == 0
    assert "nothing new" in capsys.readouterr().out


def test_dry_computes_and_publishes_nothing(source, tmp_path, capsys):
    assert explain.report(explain.run(job(source, tmp_path / "out", methods=("grad_cam",), dry=True))) == 0
    assert "maps grad_cam finer: 6 of 6 tasks to compute" in capsys.readouterr().out
    assert not (tmp_path / "out" / "current.json").exists()
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_one_more_method_computes_that_method_alone(source, plain, tmp_path):
    out = tmp_path / "grown"
    explain.run(job(source, out, methods=("grad_cam",)))
    first = set(out.glob("tasks/**/receipt.json"))
    explain.run(job(source, out))
    added = [json.loads(path.read_text()) for path in out.glob("tasks/**/receipt.json") if path not in first]
    assert {part["table"] for receipt in added for part in receipt["cells"].values()} == {"maps"}
    assert len(added) == 6
    assert content(out) == plain, "a cell's bits do not depend on which other cells were missing"


def test_a_run_grown_by_a_shard_keeps_the_old_run_readable(tmp_path):
    source = dataset(tmp_path / "shards", shards=2)
    first = explain.run(job(source, tmp_path / "out")).run_id
    receipts = set((tmp_path / "out").glob("tasks/**/receipt.json"))
    explain.run(job(dataset(tmp_path / "shards", shards=3), tmp_path / "out"))
    assert len(set((tmp_path / "out").glob("tasks/**/receipt.json")) - receipts) == 2, "only the new shard's two tasks"
    assert len(content(tmp_path / "out")["images"]) == 12
    assert tables.open(str(tmp_path / "out"), run_id=first).sql("SELECT count(*) AS n FROM images").to_pylist() == [{"n": 8}]


@pytest.mark.parametrize("changes", [{"batch_size": "1"}, {"batch_size": "7"}])
def test_batch_size_recomputes_nothing(source, plain, tmp_path, changes):
    assert not explain.run(job(source, tmp_path / "plain", **changes)).new


def test_select_explains_only_what_its_condition_holds_for(source, plain, tmp_path):
    explain.run(job(source, tmp_path / "out", methods=("grad_cam",), select="predicted <> label"))
    found = content(tmp_path / "out")
    wrong = {row["image_id"] for row in found["predictions"] if row["predicted"] != row["label"]}
    assert 0 < len(wrong) < 12
    assert {row["image_id"] for row in found["maps"]} == wrong
    assert len(found["predictions"]) == 12


def test_a_bad_select_is_refused_before_any_work(source, tmp_path):
    with pytest.raises(Refusal, match="predicted_prob"):
        explain.run(job(source, tmp_path / "out", select="certainty > 0.5"))


def test_wide_columns_can_be_left_out(source, tmp_path):
    explain.run(job(source, tmp_path / "out", methods=("grad_cam",), no_store=("features", "logits")))
    run = tables.open(str(tmp_path / "out"))
    assert "features" not in run.tables
    assert "logits" not in run.dataset("predictions").schema.names


def test_limit_takes_the_first_images(source, tmp_path):
    explain.run(job(source, tmp_path / "out", methods=("grad_cam",), limit=5))
    assert [row["key"] for row in content(tmp_path / "out")["images"]] == [f"image{i:03}" for i in range(5)]


BAD = {
    "truncated": {"png": encoded(picture(1))[:300], "cls": b"1"},
    "empty": {"jpg": b"", "cls": b"1"},
    "text": {"jpg": b"this is no picture", "cls": b"1"},
    "bomb": {"png": encoded(picture(1).resize((1, 1)).resize((20_000, 8_000))), "cls": b"1"},
}
ODD = {
    "cmyk": {"jpg": encoded(picture(2).convert("CMYK"), "JPEG"), "cls": b"2"},
    "sixteen": {"png": encoded(picture(2).convert("I;16")), "cls": b"2"},
    "palette": {"png": encoded(picture(2).convert("P")), "cls": b"2"},
    "alpha": {"png": encoded(picture(2).convert("RGBA")), "cls": b"2"},
    "grey": {"webp": encoded(picture(2).convert("L"), "WEBP"), "cls": b"2"},
    "pickled": {**good(2), "pkl": b"\x80\x04K\x01."},
    "<script>alert(1)</script>": good(2),
}


def test_bad_images_are_rows_in_errors_and_their_neighbours_are_explained(tmp_path, capsys):
    samples = []
    for i, (key, members) in enumerate({**BAD, **ODD}.items()):
        samples += [(key, members), (f"good{i:02}", good(i))]
    samples += [("unlabelled", {"png": encoded(picture(3))}), ("beyond", {"png": encoded(picture(3)), "cls": b"5"})]
    samples += [("../escape", good(4)), ("good00", good(5))]
    (tmp_path / "bad.tar").write_bytes(tar_bytes(samples))
    (tmp_path / "cut.tar").write_bytes(tar_bytes([("first", good(0)), ("second", good(1))])[:-9000])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "noise.tar").write_bytes(bytes(range(256)) * 40)
    outcome = explain.run(job(str(tmp_path / "*.tar"), tmp_path / "out", methods=("grad_cam", "eigen_cam"), targets=("label",)))
    found = content(tmp_path / "out")
    explained = {row["image_id"] for row in found["maps"] if row["method"] == "grad_cam"}
    expected = {f"bad.tar/{key}" for key in ODD} | {f"bad.tar/good{i:02}" for i in range(len(BAD) + len(ODD))} | {"cut.tar/first"}
    assert explained == expected
    kinds = {}
    for row in found["errors"]:
        kinds.setdefault((row["image_id"] or row["shard"]).split("/", 1)[-1], set()).add(row["error"])
    assert kinds.pop("truncated") == {"TruncatedImage"}
    assert kinds.pop("empty") == {"EmptyImage"}
    assert kinds.pop("text") == {"UnknownFormat"}
    assert kinds.pop("bomb") == {"TooManyPixels"}
    assert kinds.pop("pickled") == {"UnsafeMember"}
    assert kinds.pop("unlabelled") == {"MissingLabel"}
    assert kinds.pop("beyond") == {"OutOfRangeLabel", "MissingLabel"}
    assert kinds.pop("../escape") == {"UnsafeKey"}
    assert kinds.pop("good00") == {"DuplicateKey"}
    assert kinds.pop("empty.tar") == {"EmptyShard"}
    assert "cut.tar" in kinds
    assert "noise.tar" in kinds
    assert all(row["message"] and "\n" not in row["message"] for row in found["errors"])
    counts = tables.open(str(tmp_path / "out")).manifest["counts"]
    assert counts["explained"] == len(expected)
    assert counts["images"] == counts["explained"] + counts["failed"]
    assert counts["errors"] == len(found["errors"])
    assert not outcome.complete, "some shards had problems"
    assert explain.report(outcome) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{counts['explained']} of {counts['images']} images explained" in last
    assert f"{counts['errors']} errors" in last


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("grad_camm",)}, "did you mean"),
        ({"targets": ("class:9",)}, "0 to 4"),
        ({"targets": ("finer(T=5)",)}, "1 to 4"),
        ({"backbone": "tests.tiny:curved", "methods": ("cam",)}, "linear classifier"),
        ({"backbone": "timm/resnet5o"}, "resnet50"),
        ({"layer": "42"}, "layer"),
        ({"backbone_args": ("classes",)}, "KEY=VALUE"),
        ({"source": ("nowhere/*.tar",)}, "nowhere"),
        ({"classes": "nowhere.txt"}, "nowhere.txt"),
        ({"device": "cuda"}, "GPU"),
        ({"targets": ("none",), "methods": ("grad_cam",)}, "target"),
    ],
)
def test_what_makes_a_job_pointless_stops_it_in_one_line(source, tmp_path, changes, words):
    with pytest.raises(Refusal, match=words) as refused:
        explain.run(job(changes.pop("source", source), tmp_path / "out", **changes))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out" / "tasks").exists()


def test_no_label_at_all_is_refused_with_the_fix(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("x", {"png": encoded(picture(0))})]))
    with pytest.raises(Refusal, match="--targets predicted"):
        explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", targets=("label",)))
    assert explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", targets=("predicted",))).complete


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (["--limit", "0"], "--limit"),
        (["--batch-size", "many"], "--batch-size"),
        (["--workers", "-1"], "--workers"),
        (["--crop", "middle"], "crop"),
        (["--nethods", "cam"], "nethods"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_wrong_flag_value_ends_the_command_with_a_readable_line(source, tmp_path, flag, words):
    command = [
        sys.executable,
        "-m",
        "jobs.explain",
        "--source",
        source,
        "--backbone",
        "tests.tiny:build",
        "--out",
        str(tmp_path / "out"),
        *flag,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_file_is_the_command_line_written_down(source, tmp_path):
    (tmp_path / "job.toml").write_text(
        f'source = ["{source}"]\nbackbone = "tests.tiny:build"\nimage_size = 64\nout = "{tmp_path}/out"\nworkers = 0\n'
        'methods = ["grad_cam", "eigen_cam"]\ntargets = ["finer"]\ntask_images = 2\nlimit = 3\n'
    )
    assert explain.main(["--config", str(tmp_path / "job.toml"), "--limit", "4", "--target-args", "finer.gamma=0.8"]) == 0
    run = tables.open(str(tmp_path / "out"))
    assert run.sql("SELECT DISTINCT round(gamma, 3) AS gamma FROM maps WHERE method = 'grad_cam'").to_pylist() == [
        {"gamma": pytest.approx(0.8)}
    ]
    assert run.manifest["counts"]["images"] == 4


def test_inside_a_submitted_job_a_relative_path_is_refused(monkeypatch, source, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(Refusal, match="absolute path"):
        job(source, "out/atlas")
    with pytest.raises(Refusal, match="absolute path"):
        job("data/*.tar", tmp_path)
    job("s3://bucket/{0..3}.tar", "s3://bucket/atlas")


STOCHASTIC = {name: f"{name}={fact('methods', name, 'NOISY')}" for name, method in METHODS.items() if method.seeded}


def test_every_stochastic_method_repeats_from_key_image_and_seed_whatever_its_task_batch_and_neighbours(source, tmp_path):
    def maps(name, **changes):
        asked = {"methods": tuple(STOCHASTIC.values()), "targets": ("label",), "backbone": "tests.tiny:lively"}
        explain.run(job(source, tmp_path / name, **{**asked, **changes}))
        return {(row["method"], row["image_id"]): row["map"] for row in content(tmp_path / name)["maps"]}

    first = maps("first", task_images=2)
    assert maps("again", task_images=2) == first
    others = [maps("whole", task_images=5, batch_size="5"), maps("alone", task_images=1, limit=11)]
    for other in others:
        assert len(other) >= 11 * len(STOCHASTIC)
        assert max(np.abs(np.array(row, int) - np.array(first[key], int)).max() for key, row in other.items()) <= 1, (
            "the last digits, if any"
        )
    reseeded = maps("reseeded", seed=1)
    for method in STOCHASTIC:
        assert any(reseeded[key] != first[key] for key in first if key[0] == method), method


def test_two_settings_of_one_method_side_by_side_under_names_of_their_own(source, tmp_path):
    asked = {
        "methods": ("sharp=layer_cam", "plain=layer_cam(norm=minmax)", "layer_cam"),
        "targets": ("label", "f08=finer(gamma=0.8)", "finer"),
    }
    explain.run(job(source, tmp_path / "out", method_args=("plain.norm=relu", "rise.masks=2")[:1], **asked))
    found = content(tmp_path / "out")["maps"]
    names = {(row["method"], row["target"]) for row in found}
    assert names == {(method, target) for method in ("sharp", "plain", "layer_cam") for target in ("label", "f08", "finer")}
    gammas = {(row["target"], row["gamma"] and round(row["gamma"], 3)) for row in found}
    assert gammas == {("label", None), ("f08", 0.8), ("finer", 0.6)}
    facts = tables.open(str(tmp_path / "out")).manifest
    assert [(method["name"], method["method"]) for method in facts["methods"]] == [
        (n, "layer_cam") for n in ("sharp", "plain", "layer_cam")
    ]
    with pytest.raises(Refusal, match="two methods are named"):
        explain.run(job(source, tmp_path / "twice", methods=("rise(masks=20)", "rise(masks=30)")))


def test_names_of_their_own_hold_different_maps_and_a_changed_setting_is_another_task(source, tmp_path):
    out = tmp_path / "out"

    def maps(**changes):
        before = set(out.glob("tasks/**/receipt.json"))
        outcome = explain.run(job(source, out, backbone="tests.tiny:lively", targets=("label",), **changes))
        found = {}
        for row in content(out)["maps"]:
            found.setdefault(row["method"], []).append((row["map_min"], row["map_max"], row["map"]))
        return found, len(set(out.glob("tasks/**/receipt.json")) - before), outcome.new

    first, computed, _ = maps(methods=("a=opti_cam(steps=2)", "b=opti_cam(steps=5)"))
    assert computed == 6
    assert len(first["a"]) == len(first["b"]) == 12
    assert all(one != other for one, other in zip(first["a"], first["b"], strict=True))
    assert maps(methods=("x=opti_cam",), method_args=("x.steps=2",))[0] == {"x": first["a"]}, "a name changes nothing"
    changed, computed, new = maps(methods=("x=opti_cam",), method_args=("x.steps=3",))
    assert (computed, new) == (6, True)
    assert all(row not in (*first["a"], *first["b"]) for row in changed["x"])
    assert maps(methods=("x=opti_cam",), method_args=("x.steps=3",)) == (changed, 0, False)


def words_of(parameter) -> list[str]:
    """The default, then all other words that a setting knows."""
    words = get_args(parameter.type) if get_origin(parameter.type) is Literal else ()
    return [str(parameter.default), *(word for word in words if word != parameter.default)]


def test_help_lists_every_setting_of_every_method_target_and_metric(capsys):
    with pytest.raises(SystemExit):
        explain.main(["--help"])
    told = "".join(capsys.readouterr().out.replace("│", " ").split())
    for registry in (METHODS, TARGETS, METRICS):
        for name, entry in registry.items():
            settings = ",".join(f"{key}={'|'.join(words_of(parameter))}" for key, parameter in entry.parameters.items())
            settings += ",preset=fine|ilsvrc" if "glas" in name else ""
            assert "".join(f"{name}({settings})".split() if settings else name) in re.sub(r":<[^>]*>(\|<[^>]*>)?", "", told), name
            assert f"family:{getattr(entry, 'family', '')}" in told
        if registry is not TARGETS:
            left_out = set(registry) - {request.alias for request in parse_all(["all"], registry, "")}
            alone = {name for name in left_out if registry[name].family != "analysis" or getattr(registry[name], "remaps", False)}
            assert not left_out or f"onlywheretheyarenamed:family:analysis,{','.join(sorted(alone))}" in told
