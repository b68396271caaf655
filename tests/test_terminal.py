"""What a job shows and writes while it runs: readable lines on the screen, JSON in a bounded file, both from the same numbers."""

import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs import demo, explain, gc, pack, score, status
from jobs import train as train_job
from pipeline import progress, storage, tables
from pipeline.datasets.packing import Pack
from pipeline.engine import costs as passes
from pipeline.monitor import events, monitor
from pipeline.monitor import status as watch
from pipeline.monitor.events import EventFile
from pipeline.monitor.monitor import Monitor
from pipeline.progress import SCREEN, Progress, ScreenHandler
from pipeline.refusal import Refusal
from pipeline.spec.job import Job
from pipeline.tables import files
from pipeline.train.job import Training
from pipeline.train.probe.job import ProbeJob
from tests.jobs import content, job
from tests.shards import dataset, good

ROOT = Path(__file__).parents[1]
TIME = r"\d\d:\d\d:\d\d "
STAGE = TIME + r"{}: {} {} in \d+:\d\d, [\d.]+/s, 0 failed"


def line(source: str, out, *more: str) -> list[str]:
    fixed = ["--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0", "--task-images", "2", "--methods", "grad_cam"]
    return [*fixed, "--source", source, "--out", str(out), *more]


def records(out, name: str = "default", kind: str = "events.jsonl") -> list[dict]:
    return [json.loads(each) for each in storage.read_bytes(watch.url_of(str(out), name, kind)).decode().splitlines()]


def test_the_screen_has_a_readable_line_a_stage_and_no_json(source, tmp_path, capsys):
    assert explain.main(line(source, tmp_path)) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    patterns = [
        STAGE.format("list", 3, "shards"),
        TIME + "plan: 12 images in 6 tasks, 6 of them with something missing",
        TIME + r"network: tests\.tiny:build takes 64 x 64 pixels \(squash, bicubic\), mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        STAGE.format("explain", 12, "images"),
        STAGE.format("publish", 1, "group"),
        TIME + r"method +forwards +backwards +seconds",
        TIME + r"(look +12|grad_cam +0) +0 +\d+\.\d",
        TIME + r"(look +12|grad_cam +0) +0 +\d+\.\d",
    ]
    assert len(lines) == len(patterns)
    for each, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, each), each
    assert "12 of 12 images explained" in captured.out
    assert not re.search(r"[{}]", captured.err + captured.out)


def test_where_nothing_is_new_the_screen_has_no_table_of_passes(source, tmp_path, capsys):
    explain.main(line(source, tmp_path))
    capsys.readouterr()
    assert explain.main(line(source, tmp_path)) == 0
    assert [each.split()[1] for each in capsys.readouterr().err.splitlines()] == ["list:", "plan:", "network:"]


@pytest.mark.parametrize("store", ["local", "s3"])
def test_the_events_are_one_json_object_a_line_and_the_status_is_the_last(source, tmp_path, request, store):
    out = str(tmp_path / "out") if store == "local" else f"{request.getfixturevalue('s3')}/atlas"
    outcome = explain.run(job(source, out, methods=("grad_cam",), name="a/b"))
    told = records(out, "a/b")
    assert [each["event"] for each in told if each["event"] != "task_done"] == [
        *("stage_begun", "stage_ended", "planned"),
        *("stage_begun", "stage_ended") * 2,
        "end",
    ]
    assert [each["stage"] for each in told if each["event"] == "stage_ended"] == ["list", "explain", "publish"]
    assert all(each["seconds"] >= 0 for each in told if each["event"] == "stage_ended")
    tasks = [each for each in told if each["event"] == "task_done"]
    assert len({each["task"] for each in tasks}) == 6
    assert {*tasks[0]} == {
        *("event", "time", "progress", "task", "shard", "start", "stop", "failed", "seconds", "bytes_read", "retries"),
        *("passes", "payer_seconds"),
    }
    assert [each["progress"]["images_done"] for each in tasks] == [2, 4, 6, 8, 10, 12]
    assert [each["progress"]["tasks_done"] for each in tasks] == [1, 2, 3, 4, 5, 6]
    end = told[-1]
    assert end["progress"]["counts"] == outcome.counts and end["progress"]["run_id"] == outcome.run_id
    assert end["passes"]["look"]["forwards"] == 12 and end["passes"]["grad_cam"]["seconds"] > 0
    read = watch.read(out, "a/b")
    assert {name: read.pop(name) for name in ("name", "started", "updated")}["name"] == "a/b"
    assert read == end["progress"]


def test_a_job_that_breaks_off_says_so_in_both(source, tmp_path, monkeypatch):
    from pipeline.run import in_process

    def broken(*_):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(in_process, "explain_tasks", broken)
    with pytest.raises(OSError, match="No space"):
        explain.run(job(source, tmp_path))
    end = records(tmp_path)[-1]
    assert end["event"] == "end" and end["progress"]["state"] == "failed"
    assert end["progress"]["reason"] == watch.read(str(tmp_path), "default")["reason"] == "OSError: [Errno 28] No space left on device"


def test_a_task_that_fails_is_an_event_with_its_reason(source, tmp_path, monkeypatch):
    from pipeline.stages.land import Land

    def refused(self, row):
        return {"receipt": json.dumps({"failure": {"task": "t", "shard": "00000.tar", "error": "E", "message": "full", "images": 2}})}

    monkeypatch.setattr(Land, "__call__", refused)
    with pytest.raises(KeyError):  # this failure names no stage
        explain.run(job(source, tmp_path))
    failed = [each for each in records(tmp_path) if each["event"] == "task_failed"]
    assert len(failed) == 6 and failed[0]["message"] == "full"
    assert [each["progress"]["images_failed"] for each in failed] == [2, 4, 6, 8, 10, 12]


def test_the_events_are_bounded_and_rotated(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "LIMIT", 2000)
    out, number = str(tmp_path), 0
    for _ in range(7):  # jobs, each of which goes on behind the last
        kept = EventFile(out, "n")
        for _ in range(23):
            kept.add({"event": "task_done", "number": number})
            number += 1
            if number % 5 == 0:
                kept.write()
        kept.write()
        newer, older = records(out, "n"), records(out, "n", "events.1.jsonl") if number > 60 else []
        numbers = [each["number"] for each in older + newer]
        assert numbers == list(range(number))[-len(numbers) :], "the newest, without a gap"
        assert all(path.stat().st_size <= 2000 for path in tmp_path.rglob("*.jsonl"))
    assert len(numbers) > 45
    assert {path.name for path in tmp_path.rglob("*.jsonl")} == {"n.events.jsonl", "n.events.1.jsonl"}


def test_events_that_could_not_be_written_are_written_later_and_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "LIMIT", 2000)
    kept, write = EventFile(str(tmp_path), "n"), files.write_bytes

    def refused(url, content):
        raise PermissionError("ExpiredToken")

    monkeypatch.setattr(files, "write_bytes", refused)
    for number in range(500):
        kept.add({"number": number})
        with pytest.raises(PermissionError):
            kept.write()
        assert kept.size <= 2000 and len(kept.older or b"") <= 2000
    monkeypatch.setattr(files, "write_bytes", write)
    kept.write()
    numbers = [each["number"] for each in records(tmp_path, "n", "events.1.jsonl") + records(tmp_path, "n")]
    assert numbers == list(range(500))[-len(numbers) :] and len(numbers) > 100


def test_a_store_that_refuses_both_stops_no_job_and_is_complained_of_once(source, tmp_path, monkeypatch, caplog):
    write = files.write_bytes

    def refused(url, content):
        if "/jobs/" in url:
            raise PermissionError("no")
        write(url, content)

    monkeypatch.setattr(files, "write_bytes", refused)
    monkeypatch.setattr(monitor, "EVERY", 0)
    assert explain.run(job(source, tmp_path)).complete
    assert caplog.text.count("cannot be written") == 1
    assert not (tmp_path / "jobs").exists()


def test_the_screen_has_the_events_instead_where_they_are_asked_for(source, tmp_path, capsys):
    assert explain.main(line(source, tmp_path, "--log", "json")) == 0
    shown = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert shown == records(tmp_path)


def test_how_a_job_is_logged_decides_nothing_and_is_not_kept(source, tmp_path):
    first = explain.run(job(source, tmp_path, methods=("grad_cam",)))
    assert "log" not in tables.open(str(tmp_path)).manifest["job"]
    assert not explain.run(job(source, tmp_path, methods=("grad_cam",), log="json")).new
    scored = score.run(score.Score(out=str(tmp_path), metrics=("energy",), workers=0, log="json"))
    assert scored.run_id != first.run_id and scored.complete


def test_every_job_that_takes_a_while_has_the_setting():
    for kind in (Job, score.Score, ProbeJob, Pack, Training, demo.Demo):
        assert next(field for field in fields(kind) if field.name == "log").default == "text", kind


def test_packing_shows_its_lines_or_its_events(tmp_path, capsys):
    for name in ("b", "a"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "1.png").write_bytes(good(0)["png"])
    line = ["--root", str(tmp_path / "root"), "--workers", "0", "--out"]
    assert pack.main([*line, str(tmp_path / "text")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [each.split()[1] for each in lines] == ["folder:", "pack:"]
    assert pack.main([*line, str(tmp_path / "json"), "--log", "json"]) == 0
    shown = [json.loads(each)["event"] for each in capsys.readouterr().err.splitlines()]
    assert shown == ["planned", "stage_begun", "stage_ended"]
    assert (tmp_path / "json" / "pack.json").read_bytes() == (tmp_path / "text" / "pack.json").read_bytes()


def test_status_and_gc_do_not_stumble_over_the_events(source, tmp_path, capsys):
    explain.run(job(source, tmp_path))
    files.write_bytes(watch.url_of(str(tmp_path), "default", "events.1.jsonl"), b"{}\n")
    before = content(tmp_path)
    assert watch.names(str(tmp_path)) == ["default"]
    assert status.main(["--out", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert gc.main(["--out", str(tmp_path), "--keep", "1", "--min-age", "0", "--delete"]) == 0
    assert len(list((tmp_path / "jobs").iterdir())) == 3
    assert content(tmp_path) == before


def test_a_dry_job_writes_neither(source, tmp_path):
    explain.run(job(source, tmp_path, dry=True))
    assert not (tmp_path / "jobs").exists()


def test_the_table_of_passes_has_the_dearest_first_and_an_end():
    costs = Counter({("rise", "forwards"): 120000, ("rise", "seconds"): 61.24, ("look", "forwards"): 12, ("look", "seconds"): 0.31})
    assert passes.table(costs) == [
        "method  forwards  backwards  seconds",
        "rise     120,000          0     61.2",
        "look          12          0      0.3",
    ]
    assert passes.table(Counter()) == []
    many = Counter({(f"m{i:02}", "seconds"): i for i in range(30)})
    assert [row.split()[0] for row in passes.table(many)[1:]] == [*(f"m{i}" for i in range(29, 17, -1)), "and"]
    assert passes.table(many)[-1].startswith("and 18 more")


def test_seconds_are_told_by_payer_and_summed_in_the_run(source, tmp_path):
    explain.run(job(source, tmp_path, methods=("grad_cam", "rise(masks=20)"), targets=("label",), metrics=("ad",)))
    told = [each["payer_seconds"] for each in records(tmp_path) if each["event"] == "task_done"]
    assert all({*each} >= {"look", "grad_cam", "rise", "ad"} for each in told)
    for payer, spent in tables.open(str(tmp_path)).manifest["passes"].items():
        # each task's are rounded to 1e-4 s, and so is their sum to 1e-3 s
        assert spent["seconds"] == pytest.approx(sum(each[payer] for each in told), abs=6e-4)
    explained = sum(each["seconds"]["explain"] for each in records(tmp_path) if each["event"] == "task_done")
    assert sum(sum(each.values()) for each in told) < explained, "no second is told twice"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal():
    """Standard error as a terminal of 40 columns that shows every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream := Terminal())
        patch.setenv("COLUMNS", "40")
        patch.setattr(progress, "REDRAW_SECONDS", 0)
        yield stream
    SCREEN.has_moving_line = False


def visible(text: str) -> list[str]:
    """The lines that a terminal shows in the end."""
    return [each.rpartition("\r\x1b[K")[2] for each in text.split("\n")]


def test_on_a_terminal_one_line_moves_and_every_other_line_stays_whole():
    log = logging.getLogger("test.terminal")
    log.addHandler(ScreenHandler())
    told = Monitor()
    with terminal() as stream, told.stage("explain", 3000, "images"):
        for i in range(3):
            told.add(1000, 1)
            if i == 1:
                log.warning("a batch of 32 failed (out of memory); trying its halves")
    lines = visible(stream.getvalue())
    assert lines[0].endswith("a batch of 32 failed (out of memory); trying its halves")
    assert re.fullmatch(TIME + r"explain: 3000 images in 0:00, [\d.]+/s, 3 failed", lines[1])
    assert lines[2:] == [""]
    steps = re.findall(r"\d\d:\d\d:\d\d explain: \d+/3000[^\r\n]*", stream.getvalue())
    assert len(steps) == 4 and all(len(step) <= 39 for step in steps), "one that wraps cannot be cleared"


def test_what_breaks_off_leaves_its_last_line_whole():
    with pytest.raises(ValueError, match="broken"), terminal() as stream, Monitor().stage("explain", 4, "images"):
        raise ValueError("broken")
    assert visible(stream.getvalue())[-2].endswith("explain: 0/4 images, 0.0/s, 0 failed")


def test_without_a_terminal_there_is_a_plain_line_now_and_then(capsys, monkeypatch):
    told, clock = Monitor(), [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with told.stage("explain", 100, "images") as counted:
        counted.started = clock[0]
        for _ in range(50):
            clock[0] += 1
            told.add(2)
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(TIME, "", each) for each in lines] == [
        *(f"explain: {2 * i}/100 images, 2.0/s, 0:{50 - i:02} left, 0 failed" for i in (10, 20, 30, 40, 50)),
        "explain: 100 images in 0:50, 2.0/s, 0 failed",
    ]
    assert Progress("list", 3, "shards").line == "list: 0/3 shards, 0.0/s, 0 failed"


def test_a_job_in_this_process_needs_neither_ray_nor_without_a_network_torch():
    code = (
        "import sys; sys.modules['ray'] = sys.modules['torch'] = None\n"
        "from cluster.connect import executor_for\n"
        "with executor_for(0) as executor: print(executor.workers, executor.gpus, list(executor.map(len, ['ab'], workers=3)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1 0 [2]\n"


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "expected"),
    [
        (4, 0, {}, (4, 0)),
        (4, 2, {}, (2, 2)),
        (4, 2, {"device": "cpu"}, (4, 0)),
        (4, 2, {"device": "cuda", "workers": 1}, (1, 2)),
        (4, 0, {"workers": 7}, (7, 0)),
    ],
    ids=str,
)
def test_workers_are_as_many_as_gpus_or_cpus_or_as_asked_for(cpus, gpus, asked, expected):
    from pipeline.run import on_ray
    from pipeline.run.executor import Executor

    found = Executor.of(on_ray, cpus, gpus, **asked)
    assert (found.workers, found.gpus) == expected
    with pytest.raises(Refusal, match="no GPU"):
        Executor.of(on_ray, cpus, 0, device="cuda")


def test_training_shows_its_epochs_or_their_events(tmp_path, capsys):
    source = dataset(tmp_path / "shards")
    line = ["--source", source, "--backbone", "timm/test_resnet", "--classes", "5", "--epochs", "2", "--image-size", "64"]
    line += ["--backbone-args", "pretrained=false", "--cache", str(tmp_path / "cache"), "--output-stride", "None", "--out"]
    assert train_job.main([*line, str(tmp_path / "text")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [each.split()[1] for each in lines] == ["rate", "rate", "train:"]
    assert train_job.main([*line, str(tmp_path / "json"), "--log", "json"]) == 0
    shown = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert [each["event"] for each in shown] == ["stage_begun", "epoch", "epoch", "stage_ended"]
    text, same = (load_file(tmp_path / out / "checkpoint.safetensors") for out in ("text", "json"))
    assert text.keys() == same.keys() and all(torch.equal(text[name], same[name]) for name in text)
