"""A run that can be trusted: damage is found and mended, a night computes what changed and nothing else, one of two jobs publishes."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import explain
from pipeline import backbones, storage, tables
from pipeline.methods import METHODS
from pipeline.plan.check import check_job
from pipeline.run import in_process
from pipeline.run.execute import execute
from pipeline.run.executor import Executor
from pipeline.sources import ShardError
from pipeline.spec.job import Job
from pipeline.tables import files, publish, receipts
from tests.bench import tasks as bench
from tests.jobs import content, job
from tests.shards import dataset, encoded, good, tar_bytes

ASKED = {"methods": ("grad_cam", "eigen_cam")}
TASKS = {"backbone": "tests.tiny:build", "image_size": 64, "methods": ("grad_cam",), "workers": 0, "task_images": 1}


@pytest.fixture
def source(tmp_path):
    return dataset(tmp_path / "shards")


@pytest.fixture(params=["local", "s3"])
def out(request, tmp_path):
    """A place for tables: a folder, and a bucket behind a real S3 server over HTTP."""
    return str(tmp_path / "out") if request.param == "local" else f"{request.getfixturevalue('s3')}/atlas"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The tables of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    explain.run(job(dataset(folder / "shards"), folder / "out", **ASKED))
    return content(folder / "out")


def paths(out: str, ending: str, folder: str = "tasks") -> list[str]:
    """Files below a folder of `out`, as URLs."""
    return [storage.join(out, folder, path) for path in sorted(files.below(storage.join(out, folder))) if path.endswith(ending)]


def forget(out: str) -> None:
    """Unpublish everything: the next job finds tasks and no run."""
    fs, path = storage.filesystem(out)
    fs.rm(f"{path}/runs", recursive=True)
    fs.rm_file(f"{path}/current.json")


def spoil(url: str, damage: str) -> None:
    content = storage.read_bytes(url)
    middle = len(content) // 2
    if damage == "gone":
        storage.remove([url])
    elif damage == "cut":
        files.write_bytes(url, content[:middle])
    else:
        files.write_bytes(url, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("out", ["local", "s3"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("gone", "maps.parquet"),
        ("cut", "predictions.parquet"),
        ("flipped", "maps.parquet"),
        ("cut", "receipt.json"),
        ("flipped", "receipt.json"),
    ],
)
def test_a_damaged_file_of_a_task_is_computed_again_in_the_same_job(source, expected, out, damage, what):
    explain.run(job(source, out, **ASKED))
    forget(out)
    whole = {url: storage.read_bytes(url) for url in paths(out, what)}
    spoiled = sorted(whole)[1]
    spoil(spoiled, damage)
    assert explain.run(job(source, out, **ASKED)).complete
    assert content(out) == expected
    if what != "receipt.json":  # it says how long it took
        assert {url: storage.read_bytes(url) for url in paths(out, what)} == whole, "mended in place, and nothing else was written"


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_damage_behind_a_published_run_is_mended_where_its_group_changes(tmp_path, expected, out, damage):
    source = dataset(tmp_path / "few", shards=2)
    explain.run(job(source, out, **ASKED))
    for url in paths(out, "maps.parquet"):
        spoil(url, damage)
    explain.run(job(dataset(tmp_path / "few", shards=3), out, **ASKED))
    assert content(out) == expected


def test_a_store_that_damages_everything_ends_the_job_instead_of_going_round(source, out, monkeypatch, capsys):
    write, tries = files.write_bytes, []

    def damaging(url, content):
        tries.append(url)
        write(url, content[:-4] + b"oops" if url.endswith("maps.parquet") else content)

    monkeypatch.setattr(files, "write_bytes", damaging)
    with pytest.raises(receipts.Damaged, match=r"maps\.parquet"):
        explain.run(job(source, out, **ASKED))
    assert len([url for url in tries if url.endswith("maps.parquet")]) == 12, "every task twice, and no more"
    assert publish.current(out) == {}


def test_a_missing_list_of_receipts_is_made_up_from_the_tasks(source, expected, out):
    run = explain.run(job(source, out, **ASKED)).run_id
    spoil(storage.join(out, "runs", run, "receipts.parquet"), "cut")
    before = paths(out, "")
    assert not explain.run(job(source, out, **ASKED)).new
    assert paths(out, "") == before
    assert content(out) == expected


def test_a_published_file_that_is_gone_is_made_anew_from_the_tasks(tmp_path, expected, out):
    source = dataset(tmp_path / "few", shards=2)
    explain.run(job(source, out, **ASKED))
    for url in paths(out, ".parquet", "runs"):
        if "/maps/" in url:
            spoil(url, "gone")
    explain.run(job(dataset(tmp_path / "few", shards=3), out, **ASKED))
    assert content(out) == expected


def computed(out: str, before: set[str]) -> list[dict]:
    """The receipts that were not there before."""
    return [json.loads(storage.read_bytes(url)) for url in paths(out, "receipt.json") if url not in before]


def night(source, out, **changes) -> list[dict]:
    before = set(paths(str(out), "receipt.json"))
    explain.run(job(source, out, **{**ASKED, **changes}))
    return computed(str(out), before)


def test_after_a_change_of_one_shard_a_night_computes_that_shard_alone(source, tmp_path, capsys):
    night(source, tmp_path / "out")
    changed = [(f"image{i:03}", good(i + 50)) for i in range(4, 8)]
    (tmp_path / "shards" / "00001.tar").write_bytes(tar_bytes(changed))
    explain.run(job(source, tmp_path / "out", **ASKED, dry=True))
    assert "maps grad_cam label: 2 of 6 tasks to compute (shard changed: 2)" in capsys.readouterr().out
    added = night(source, tmp_path / "out")
    assert {receipt["facts"]["shard"] for receipt in added} == {"00001.tar"}
    assert len(added) == 2
    explain.run(job(source, tmp_path / "fresh", **ASKED))
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_night_after_a_change_of_one_percent_of_the_shards_computes_one_percent(tmp_path):
    """With simulated compute. The groups without a changed shard are published as they were."""
    asked = Job(**TASKS, source=(bench.shards(tmp_path / "shards", tasks=200, in_a_shard=2),), out=str(tmp_path / "out"))

    def night() -> tuple[int, set[str]]:
        checked = check_job(asked)
        workers = bench.Simulated(checked)
        execute(checked, replace(Executor.of(in_process, 1, 0), explain_tasks=workers))
        return workers.tasks, {entry["path"] for entry in tables.open(asked.out).manifest["files"] if entry["rows"]}

    computed, before = night()
    assert computed == 200 and len(before) > 1
    (tmp_path / "shards" / "00041.tar").write_bytes(tar_bytes([("image0", good(0)), ("image1", good(1))]))
    computed, after = night()
    assert computed == 2
    assert len(before - after) == len(after - before) == 1, "one group is compacted anew"
    assert night() == (0, after)


def tables_of(added: list[dict]) -> set[str]:
    return {part["table"] for receipt in added for part in receipt["cells"].values()}


def test_one_more_method_computes_that_method_alone(source, tmp_path, capsys):
    night(source, tmp_path / "out")
    more = {"methods": ("grad_cam", "eigen_cam", "layer_cam")}
    explain.run(job(source, tmp_path / "out", **more, dry=True))
    output = capsys.readouterr().out
    assert "maps layer_cam label: 6 of 6 tasks to compute (method new: 6)" in output
    assert "maps grad_cam label: 0 of 6 tasks to compute\n" in output
    added = night(source, tmp_path / "out", **more)
    assert [len(receipt["cells"]) for receipt in added] == [2] * 6, "layer_cam about the label and about finer"
    assert tables_of(added) == {"maps"}


def test_a_raised_version_computes_its_method_alone(source, tmp_path, monkeypatch, capsys):
    night(source, tmp_path / "out")
    old = METHODS["eigen_cam"]
    monkeypatch.setitem(METHODS, "eigen_cam", replace(old, version=old.version + 1))
    explain.run(job(source, tmp_path / "out", **ASKED, dry=True))
    raised = f"raised from {old.version} to {old.version + 1}"
    assert f"maps eigen_cam none: 6 of 6 tasks to compute (version of eigen_cam {raised}: 6)" in capsys.readouterr().out
    added = night(source, tmp_path / "out")
    assert [len(receipt["cells"]) for receipt in added] == [1] * 6
    assert tables_of(added) == {"maps"}


def test_what_never_ran_and_what_got_lost_are_told_apart(source, tmp_path, capsys):
    explain.run(job(source, tmp_path / "out", **ASKED, dry=True))
    assert "maps grad_cam label: 6 of 6 tasks to compute (never answered: 6)" in capsys.readouterr().out
    night(source, tmp_path / "out")
    explain.run(job(dataset(tmp_path / "shards", shards=4), tmp_path / "out", **ASKED, dry=True))
    assert "maps grad_cam label: 2 of 8 tasks to compute (shard new: 2)" in capsys.readouterr().out
    explain.run(job(source, tmp_path / "out", **ASKED, target_args=("finer.gamma=0.8",), dry=True))
    assert "maps grad_cam finer: 6 of 6 tasks to compute (settings or network changed: 6)" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"batch_size": "1"}, {"batch_size": "7"}, {"workers": 0}, {"device": "cpu"}, {"task_timeout": 9.0}])
def test_how_the_work_is_done_computes_nothing_again(source, tmp_path, changes):
    assert night(source, tmp_path / "out")
    assert night(source, tmp_path / "out", **changes) == []


def test_of_two_jobs_that_publish_at_once_one_wins_and_the_other_loses_nothing(source, tmp_path, out, monkeypatch, capsys):
    """Both have finished their tables when either publishes; the loser says so, and publishes when it is run again."""
    meet, undisturbed, codes = threading.Barrier(2), publish.flip, {}
    loading, load = threading.Lock(), backbones.load

    def in_turn(**arguments):  # torch.fx traces one network at a time
        with loading:
            return load(**arguments)

    monkeypatch.setattr(backbones, "load", in_turn)
    monkeypatch.setattr(publish, "flip", lambda *arguments: (meet.wait(60), undisturbed(*arguments)))
    lines = {
        name: [
            "--source",
            source,
            "--backbone",
            "tests.tiny:build",
            "--image-size",
            "64",
            "--workers",
            "0",
            "--out",
            out,
            "--methods",
            name,
        ]
        for name in ("grad_cam", "layer_cam")
    }
    threads = [threading.Thread(target=lambda name=name: codes.update({name: explain.main(lines[name])})) for name in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(codes.values()) == [0, 3]
    assert "published by another job meanwhile" in capsys.readouterr().err
    monkeypatch.setattr(publish, "flip", undisturbed)
    loser = next(name for name, code in codes.items() if code == 3)
    assert {row["method"] for row in content(out)["maps"]}.isdisjoint({loser})
    before = paths(out, "")
    assert explain.main(lines[loser]) == 0
    assert paths(out, "") == before, "nothing had to be computed again"
    assert {row["method"] for row in content(out)["maps"]} == {loser}


def test_a_reader_never_sees_half_a_run(source, out):
    """While jobs with one and two methods take turns at publishing, whoever opens the run finds all of one or all of the other."""
    explain.run(job(source, out, methods=("grad_cam",), targets=("label",)))
    done, seen = threading.Event(), []

    def read():
        while not done.is_set():
            run = tables.open(out)
            counts = {table: run.dataset(table).count_rows() for table in ("images", "predictions", "maps")}
            seen.append((counts["images"], counts["predictions"], counts["maps"] // 12, len(run.manifest["methods"])))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(4):
            methods = ("grad_cam",) if turn % 2 else ("grad_cam", "layer_cam")
            explain.run(job(source, out, methods=methods, targets=("label",)))
    finally:
        done.set()
        reader.join(60)
    assert len(seen) > 1
    assert {(images, predictions) for images, predictions, *_ in seen} == {(12, 12)}
    assert all(maps == methods for *_, maps, methods in seen)


def test_an_answer_lost_on_its_way_back_is_no_lost_race(tmp_path, monkeypatch):
    """The store has taken the write, and only its answer was lost: the next try finds its own name published."""
    place, undisturbed = str(tmp_path), files.replace

    def lossy(*arguments):
        undisturbed(*arguments)
        return False

    monkeypatch.setattr(files, "replace", lossy)
    publish.flip(place, "nightly", "mine", None)
    assert publish.current(place) == {"nightly": "mine"}


@pytest.mark.parametrize(("share", "published"), [(0.5, True), (0.2, False)])
def test_how_much_may_fail_decides_what_is_published(tmp_path, share, published, capsys):
    source = dataset(tmp_path / "shards")
    (tmp_path / "shards" / "00002.tar").write_bytes(b"this is no tar" * 100)
    line = ["--source", source, "--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0", "--out", str(tmp_path / "out")]
    assert explain.main([*line, "--max-failed", str(share)]) == 3
    assert bool(publish.current(str(tmp_path / "out"))) is published
    assert published or "33.3% of the images or shards failed" in capsys.readouterr().err
    (tmp_path / "shards" / "00002.tar").write_bytes(tar_bytes([("a", good(1))]))
    assert explain.main([*line, "--max-failed", "0"]) == 0


@pytest.mark.parametrize("stage", range(4))
def test_a_job_that_dies_between_two_writes_goes_on_as_if_nothing_had_been(source, expected, tmp_path, monkeypatch, stage):
    """T7 of Ray's checkpoints: an image that is committed with some of its methods stays so. Here a receipt is written last."""
    write, left = files.write_bytes, [3 * stage + 1]

    class Died(BaseException):
        pass

    def dying(url, content):
        left[0] -= "/tasks/" in url
        if left[0] < 0:
            raise Died
        write(url, content)

    monkeypatch.setattr(files, "write_bytes", dying)
    with pytest.raises(Died):
        explain.run(job(source, tmp_path / "out", **ASKED))
    monkeypatch.undo()
    explain.run(job(source, tmp_path / "out", **ASKED))
    assert content(tmp_path / "out") == expected


def test_a_replay_that_comes_out_differently_adds_no_rows(source, expected, tmp_path):
    """T5: a worker dies after its write, and its replay writes other files. What counts is what receipts name, each cell once."""
    explain.run(job(source, tmp_path / "out", **ASKED))
    first = set(tmp_path.glob("out/tasks/**/receipt.json"))
    for folder in {path.parent for path in first}:  # the same cells once more, in a call that was asked for other cells beside them
        twin = folder.with_name("0" * 32)
        shutil.copytree(folder, twin)
        receipt = receipts.Receipt.from_json((twin / "receipt.json").read_text())
        moved = {table: {**entry, "path": entry["path"].replace(folder.name, twin.name)} for table, entry in receipt.files.items()}
        again = receipts.Receipt(receipt.task, receipt.folder.replace(folder.name, twin.name), receipt.cells, moved, receipt.facts)
        (twin / "receipt.json").write_text(again.to_json())
        (twin / "stray.parquet").write_bytes(b"nobody names this")
    shutil.rmtree(tmp_path / "out" / "runs")
    (tmp_path / "out" / "current.json").unlink()
    explain.run(job(source, tmp_path / "out", **ASKED))
    assert content(tmp_path / "out") == expected


def test_a_shard_that_fails_every_time_is_reported_every_time(source, tmp_path, monkeypatch):
    from pipeline.stages import read as stage

    read = stage.read

    def failing(shard, *arguments):
        if shard.name == "00001.tar":
            raise ShardError("Gone", "the store lost it")
        return read(shard, *arguments)

    monkeypatch.setattr(stage, "read", failing)
    for _ in range(2):
        outcome = explain.run(job(source, tmp_path / "out", **ASKED))
        assert not outcome.complete
        assert {(row["shard"], row["stage"], row["error"]) for row in content(tmp_path / "out")["errors"]} == {
            ("00001.tar", "read", "Gone")
        }
        assert outcome.counts["explained"] == 8


def test_an_image_that_the_network_answers_with_nan_is_an_error_and_its_neighbours_are_explained(source, tmp_path):
    white = {**good(5), "png": encoded(Image.new("RGB", (64, 64), "white"))}
    (tmp_path / "shards" / "00001.tar").write_bytes(tar_bytes([("a", good(4)), ("white", white), ("b", good(6)), ("c", good(7))]))
    settings = {**ASKED, "backbone": "tests.tiny:blinded", "metrics": ("ad_ai_ag", "energy")}
    outcome = explain.run(job(source, tmp_path / "out", **settings))
    assert (outcome.counts["explained"], outcome.counts["failed"]) == (11, 1)
    run = tables.open(str(tmp_path / "out"))
    [row] = run.table("errors").to_pylist()
    assert (row["image_id"], row["stage"], row["error"]) == ("00001.tar/white", "predict", "NotFinite")
    for table in ("predictions", "maps", "metrics"):
        assert run.sql(f"SELECT count(DISTINCT image_id) AS n FROM {table}")["n"].to_pylist() == [11]


def test_a_full_disk_fails_the_tasks_it_meets_and_the_rest_is_kept(source, expected, tmp_path, monkeypatch):
    write = files.write_bytes

    def full(url, content):
        if "/tasks/" in url and Path(url).parent.parent.name < "8":
            raise OSError(28, "No space left on device")
        write(url, content)

    monkeypatch.setattr(files, "write_bytes", full)
    outcome = explain.run(job(source, tmp_path / "out", **ASKED))
    assert 0 < outcome.counts["explained"] < 12
    assert {row["stage"] for row in content(tmp_path / "out")["errors"]} == {"land"}
    monkeypatch.undo()
    explain.run(job(source, tmp_path / "out", **ASKED))
    assert content(tmp_path / "out") == expected


def test_a_run_says_how_long_each_stage_took_and_how_much_it_moved(source, tmp_path):
    explain.run(job(source, tmp_path / "out", **ASKED))
    spent = tables.open(str(tmp_path / "out")).manifest["spent"]
    seconds = {f"{stage}_seconds" for stage in ("list", "read", "explain", "wall", "publish")}
    written = seconds | {"images_per_second", "bytes_read", "bytes_written", "retries"}
    assert set(spent) == written, "name a new number of `spent` here; `_times` in pipeline/reduce/manifest.py says what belongs there"
    assert spent["bytes_read"] == sum(len(good(i)["png"]) for i in range(12))
    assert spent["bytes_written"] == sum(path.stat().st_size for path in tmp_path.glob("out/tasks/**/*.parquet"))
    assert spent["retries"] == 0
    assert np.isfinite(list(spent.values())).all()
