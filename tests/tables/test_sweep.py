"""`jobs.gc` removes what no kept run refers to and nothing else; `jobs.status` tells how far a job is."""

import os
import re
import time
from pathlib import Path

import pytest

from jobs import explain, gc, status
from pipeline import storage, tables
from pipeline.monitor import monitor
from pipeline.monitor import status as watch
from pipeline.refusal import Refusal
from pipeline.tables import files, publish
from pipeline.tables.gc import collect_garbage
from tests.jobs import content, job
from tests.shards import dataset, good, tar_bytes

ONE = {"targets": ("label",)}


@pytest.fixture(params=["local", "s3"])
def out(request, tmp_path):
    return str(tmp_path / "out") if request.param == "local" else f"{request.getfixturevalue('s3')}/atlas"


@pytest.fixture
def nights(out, tmp_path) -> list[str]:
    """Three runs of one name, each with a method of its own, and one of another name."""
    source = dataset(tmp_path / "shards", shards=2)
    runs = [explain.run(job(source, out, methods=(method,), **ONE)).run_id for method in ("grad_cam", "layer_cam", "xgrad_cam")]
    return [*runs, explain.run(job(source, out, methods=("hires_cam",), name="other", **ONE)).run_id]


def folders(out: str, kind: str) -> set[str]:
    depth = {"runs": 1, "tasks": 3}[kind]
    return {"/".join(path.split("/")[:depth]) for path in files.below(storage.join(out, kind))}


def test_dry_by_default_it_removes_nothing(out, nights, capsys):
    before = files.below(out).keys()
    assert gc.main(["--out", out, "--keep", "1", "--min-age", "0"]) == 0
    assert files.below(out).keys() == before
    # the first run's task of a shard answers images, features and predictions as well, which all others use
    assert "would remove 2 runs and 4 tasks" in capsys.readouterr().out


def test_it_keeps_the_last_runs_of_each_name_and_what_they_refer_to(out, nights, tmp_path, capsys):
    kept = content(out), content(out, "other")
    assert gc.main(["--out", out, "--keep", "1", "--min-age", "0", "--delete"]) == 0
    assert "removed 2 runs" in capsys.readouterr().out
    assert folders(out, "runs") == set(nights[2:])
    assert (content(out), content(out, "other")) == kept
    before = files.below(out).keys()
    source = f"{tmp_path}/shards/*.tar"
    assert not explain.run(job(source, out, methods=("xgrad_cam",), **ONE)).new
    assert files.below(out).keys() == before, "all that the kept run answers is still there"
    assert collect_garbage(out, keep=1, min_age=0).tasks == ()


def test_a_run_named_stays_with_its_tasks(out, nights):
    garbage = collect_garbage(out, keep=1, run_ids=[nights[0]], min_age=0)
    assert [folder.path for folder in garbage.runs] == [f"runs/{nights[1]}"]
    assert len(garbage.tasks) == 4, "layer_cam's"
    assert collect_garbage(out, keep=7, min_age=0).size == 0
    with pytest.raises(Refusal, match="no such run"):
        collect_garbage(out, keep=1, run_ids=["yesterday"], min_age=0)


def test_what_is_young_is_left_to_whoever_is_writing_it(out, nights):
    files.write_bytes(storage.join(out, "runs/halfway/maps/part.parquet"), b"x")
    files.write_bytes(storage.join(out, "tasks/ab/abcd/0123/maps.parquet"), b"x")
    assert collect_garbage(out, keep=1).size == 0
    garbage = collect_garbage(out, keep=7, min_age=0, delete=True)
    assert [folder.path for folder in garbage.runs] == ["runs/halfway"]
    assert [folder.path for folder in garbage.tasks] == ["tasks/ab/abcd/0123"]
    assert "halfway" not in folders(out, "runs")
    assert collect_garbage(out, keep=7, min_age=0).size == 0


def test_age_is_that_of_the_youngest_file(tmp_path):
    out = str(tmp_path)
    for name, age in (("maps.parquet", 5000), ("images.parquet", 50)):
        files.write_bytes(storage.join(out, "tasks/ab/abcd/0123", name), b"x")
        os.utime(tmp_path / "tasks/ab/abcd/0123" / name, times=(time.time() - age,) * 2)
    assert collect_garbage(out, keep=1, min_age=1000).tasks == ()
    assert len(collect_garbage(out, keep=1, min_age=10).tasks) == 1


def test_where_a_kept_run_cannot_be_read_nothing_is_removed(tmp_path):
    out = str(tmp_path / "out")
    source = dataset(tmp_path / "shards", shards=1)
    runs = [explain.run(job(source, out, methods=(method,), **ONE)).run_id for method in ("grad_cam", "layer_cam")]
    files.write_bytes(storage.join(out, "runs", runs[1], "receipts.parquet"), b"cut")
    before = files.below(out).keys()
    with pytest.raises(Refusal, match="nothing is removed"):
        collect_garbage(out, keep=1, min_age=0, delete=True)
    assert files.below(out).keys() == before


def test_beside_a_running_job_it_costs_that_job_work_and_nothing_else(tmp_path, monkeypatch):
    """Between a job's look at old tasks and its end everything old that no run refers to goes: the job computes it again."""
    from pipeline.run import execute

    out, source = str(tmp_path / "out"), dataset(tmp_path / "shards", shards=2)
    for method in ("grad_cam", "layer_cam", "xgrad_cam"):
        explain.run(job(source, out, methods=(method,), **ONE))
    undisturbed = execute._explain_missing

    def disturbed(*arguments):
        monkeypatch.setattr(execute, "_explain_missing", undisturbed)
        assert collect_garbage(out, keep=1, min_age=0, delete=True).tasks
        return undisturbed(*arguments)

    monkeypatch.setattr(execute, "_explain_missing", disturbed)
    settings = {"methods": ("grad_cam", "layer_cam"), **ONE}
    assert explain.run(job(source, out, **settings)).complete
    explain.run(job(source, tmp_path / "fresh", **settings))
    assert content(out) == content(tmp_path / "fresh")


@pytest.mark.parametrize("line", [["--keep", "0"], ["--min-age", "-1"]])
def test_a_wrong_line_is_refused(tmp_path, line, capsys):
    with pytest.raises(SystemExit, match="2"):
        gc.main(["--out", str(tmp_path), *line])
    assert line[0] in capsys.readouterr().err


def test_an_empty_place_is_refused_by_both(tmp_path, capsys):
    assert gc.main(["--out", str(tmp_path / "nowhere")]) == 2
    assert status.main(["--out", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("check --out") == 2


def test_status_of_a_finished_job_names_what_is_published(out, nights, capsys):
    assert status.main(["--out", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("default: the last job finished")
    assert f"published is {nights[2]}" in lines[1] and "8 of 8 images explained, 0 failed" in lines[1]
    assert status.main(["--out", out, "--name", "othr"]) == 2


def test_status_while_a_job_runs_and_after_it_died(tmp_path, monkeypatch, capsys):
    """The job's own object, read between two of its tasks."""
    from pipeline.run import in_process

    monkeypatch.setattr(monitor, "EVERY", 0)
    undisturbed, seen = in_process.explain_tasks, []

    def observed(*arguments):
        for receipt in undisturbed(*arguments):
            yield receipt
            seen.append(status.lines(str(tmp_path / "out")))
            if len(seen) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(in_process, "explain_tasks", observed)
    with pytest.raises(KeyboardInterrupt):
        explain.run(job(dataset(tmp_path / "shards"), tmp_path / "out", methods=("grad_cam",)))
    assert [line.split(",")[1:3] for line, _ in seen] == [[f" {2 * n}/12 images", f" {n}/6 tasks"] for n in (1, 2, 3)]
    assert "/s" in seen[0][0] and "left" in seen[0][0] and "0 failed so far" in seen[0][0]
    assert seen[0][1] == "default: nothing is published"
    assert "broke off" in status.lines(str(tmp_path / "out"))[0]


def test_a_job_that_was_killed_is_silent(tmp_path):
    files.write_json(watch.url_of(str(tmp_path), "n"), {"name": "n", "started": 0, "updated": time.time() - 7200, "state": "explaining"})
    assert "silent for 2:00:00, perhaps dead" in status.lines(str(tmp_path))[0]


def test_a_name_is_no_path(tmp_path):
    monitor.Monitor("text", str(tmp_path), "../../n").end("finished")
    assert watch.names(str(tmp_path)) == ["../../n"]
    assert {path.name for path in tmp_path.rglob("*n*") if path.is_file()} == {"..%2F..%2Fn.json", "..%2F..%2Fn.events.jsonl"}
    assert publish.current(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"state": "listing", "shards": 9, "shards_done": 3, "shards_failed": 1}, "listing, 3/9 shards, 1 failed so far"),
        ({"state": "publishing", "groups": 2, "groups_done": 1, "images": 8}, "publishing, 1/2 groups, 0 failed so far"),
    ],
    ids=lambda value: value["state"] if isinstance(value, dict) else "",
)
def test_status_counts_what_the_stage_counts(tmp_path, numbers, words):
    watch.StatusFile(str(tmp_path), "n").update(numbers)
    assert status.lines(str(tmp_path))[0] == f"n: {words}"


def test_a_run_tells_its_steps_costs_errors_and_what_it_dropped(tmp_path):
    source, out = dataset(tmp_path / "in", shards=2), str(tmp_path / "out")
    explain.run(job(source, out, methods=("grad_cam", "opti_cam(steps=2)"), targets=("label",)))
    broken = [(f"broken{i}", good(i) | {"png": b"no image"}) for i in range(2)]
    Path(tmp_path / "in" / "00001.tar").write_bytes(tar_bytes([("image004", good(4)), *broken]))
    explain.run(job(source, out, methods=("opti_cam(steps=2)",), targets=("label",)))
    run = tables.open(out)
    text = list(status.lines_about(run))
    assert text[0].startswith(f"{run.run_id} of ") and text[0].endswith(": 5 of 7 images explained")
    assert re.match(r"from start to end 0:0\d; of it: .*explain .*list .*publish ", text[1])
    assert text[2].split() == ["method", "forwards", "backwards", "seconds"] and text[3].split()[:3] in (
        ["opti_cam", "10", "10"],
        ["look", "7", "0"],
    )
    [errors] = [line for line in text if line.startswith("2 errors: decode: ")]
    assert "broken" in errors
    assert text[-1] == "the run before held 1 image, method grad_cam beyond it"
    printed = [status.report(status.Status(out=out, run=word)) for word in ("last", "default", run.run_id)]
    assert printed == [0, 0, 0]
