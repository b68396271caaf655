"""The nightly job: verdicts of nights, budgets and deadlines, and nights that are killed at every step and started again."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import compare, nightly, plan
from pipeline import tables
from pipeline.reduce import publish_run
from pipeline.stages import land
from pipeline.tables import publish
from tests.jobs import content, job
from tests.shards import dataset, good, tar_bytes

LINE = {"methods": ("grad_cam",), "targets": ("label",), "metrics": ("energy",), "analyses": ("mean_maps",), "task_images": 4}


def night_of(source, out, **changes) -> nightly.Nightly:
    own = {name: changes.pop(name) for name in [*changes] if name not in nightly.Job.__dataclass_fields__}
    return nightly.Nightly(**vars(job(source, out, **LINE | changes)), **own)


def nights(out) -> list[dict]:
    """The rows of the table, in order."""
    return [row for path in sorted(Path(out, "nights").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_three_nights_have_the_right_verdicts(tmp_path, capsys):
    source, out = dataset(tmp_path / "in", shards=5), tmp_path / "out"
    limits = {"bad": ("moved>0", "flips>0"), "message": str(tmp_path / "night.md"), "webhook": str(tmp_path / "night.json")}
    assert nightly.run_night(night_of(source, out, **limits)) == 0
    assert nightly.run_night(night_of(source, out, **limits)) == 0
    Path(tmp_path / "in" / "00001.tar").write_bytes(tar_bytes([(f"image{i:03}", good(i)) for i in (4, 5, 6, 99)]))  # another image7
    assert nightly.run_night(night_of(source, out, **limits)) == 0
    assert nightly.run_night(night_of(source, out, backbone="tests.tiny:sharp", **limits)) == compare.BAD
    rows = nights(out)
    assert [row["ending"] for row in rows] == ["published", "nothing new", "published", "bad"]
    assert [row["new"] for row in rows] == [True, False, True, True]
    assert rows[0]["verdict"] is None and rows[0]["run_id"] == rows[1]["run_id"] == rows[2]["before"]
    assert rows[2]["verdict"].startswith("moved: 1 new image, 1 gone image, 3 images in changed shards") and not rows[2]["bad"]
    assert "moved: " in rows[3]["verdict"] and "moved>0" in rows[3]["bad"]
    assert Path(rows[3]["report"], "index.html").exists()
    message = Path(limits["message"]).read_text()
    assert "bad: " in message and capsys.readouterr().out.endswith(message)
    facts = json.loads(Path(limits["webhook"]).read_text())
    assert facts["text"] == message.strip() and facts["bad"] == rows[3]["bad"]
    assert tables.open(str(out)).sql("SELECT count(*) AS n FROM nights").to_pylist() == [{"n": 4}]


class Killed(BaseException):
    """The process ends here."""


STEPS = {
    "plan": (plan, "estimate"),
    "a task": (land.receipts, "land"),
    "tables": (publish_run, "_write_tables"),
    "publishing": (publish, "flip"),
    "comparing": (compare, "_write"),
    "the report": (nightly, "write"),
    "cleaning up": (nightly, "collect_garbage"),
}


def killing(function: Callable, call: int) -> Callable:
    """The function, which ends the process at a call."""
    calls = []

    def killed(*arguments, **named):
        calls.append(0)
        if len(calls) == call:
            raise Killed
        return function(*arguments, **named)

    return killed


def test_a_night_that_is_killed_at_every_step_ends_in_the_same_tables(tmp_path, monkeypatch):
    source, out = dataset(tmp_path / "in"), tmp_path / "out"
    assert nightly.run_night(night_of(source, out, name="before")) == 0  # the tables that an undisturbed night ends in
    assert nightly.run_night(night_of(source, tmp_path / "killed", methods=("layer_cam",), budget_hours=9.0)) == 0
    for step, (module, name) in STEPS.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killing(getattr(module, name), call=2 if step == "a task" else 1))
            with pytest.raises(Killed):
                nightly.run_night(night_of(source, tmp_path / "killed", budget_hours=9.0))
    assert nightly.run_night(night_of(source, tmp_path / "killed", budget_hours=9.0)) == 0
    assert content(tmp_path / "killed") == content(out, "before")
    *disturbed, last = nights(tmp_path / "killed")
    assert [row["ending"] for row in disturbed] == ["published", *["broken off"] * len(STEPS)]
    assert last["ending"] == "nothing new" and last["verdict"] and Path(last["report"], "index.html").exists()


def test_a_night_beyond_its_budget_begins_nothing(tmp_path, capsys):
    source, out = dataset(tmp_path / "in"), tmp_path / "out"
    night = night_of(source, out, methods=("rise(masks=4000)",), budget_hours=1e-6)
    assert nightly.exit_code_of(lambda: nightly.run_night(night)) == 2
    assert "hours of one worker, and budget_hours is 1e-06" in capsys.readouterr().err
    assert not Path(out, "tasks").exists() and nights(out)[0]["planned_hours"] > 1e-6


def test_a_deadline_leaves_what_is_done_for_the_next_night(tmp_path):
    source, out = dataset(tmp_path / "in"), tmp_path / "out"
    assert nightly.run_night(night_of(source, out, deadline_hours=1e-9)) == nightly.INCOMPLETE
    assert not publish.current(str(out)) and "with 1 of 3 tasks done" in nights(out)[0]["ending"]
    assert nightly.run_night(night_of(source, out)) == 0
    assert tables.open(str(out)).manifest["counts"]["explained"] == 12
    assert len([*Path(out, "tasks").rglob("receipt.json")]) == 3, "the first task is not explained again"


def test_a_wrong_limit_is_refused_before_the_work(tmp_path):
    source, out = dataset(tmp_path / "in"), tmp_path / "out"
    assert nightly.exit_code_of(lambda: nightly.run_night(night_of(source, out, bad=("spearman",)))) == 2
    assert not Path(out, "tasks").exists()


def test_a_night_is_a_file_of_settings(tmp_path):
    source, config = dataset(tmp_path / "in"), tmp_path / "night.toml"
    fields = {"source": [source], "backbone": "tests.tiny:build", "image-size": 64, "workers": 0, "bad": ["flips>0.5"], "report": False}
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()))
    assert nightly.main(["--config", str(config), "--out", str(tmp_path / "out")]) == 0
    [row] = nights(tmp_path / "out")
    assert row["ending"] == "published" and row["report"] is None and set(dict(row["seconds"])) == {"explain", "gc"}
