"""A plan tells the passes, images and files that the job then has, and the rest follows from the trial by arithmetic."""

from pathlib import Path

import pytest

from jobs import explain, plan
from pipeline import tables
from pipeline.engine.batch import PASSES
from pipeline.estimate.estimate import Part, estimate_of, parts_of
from pipeline.estimate.prices import Prices
from pipeline.estimate.trial import Trial
from pipeline.plan.check import check_job
from pipeline.refusal import Refusal
from tests.jobs import job
from tests.shards import dataset, good, tar_bytes

LINE = {
    "methods": ("rise(masks=100)", "opti_cam(steps=12)", "grad_cam"),
    "metrics": ("deletion(steps=16)", "energy", "pxap"),
    "backbone": "tests.tiny:curved",
    "task_images": 5,
}


def planned(source, out, **changes) -> plan.Plan:
    return plan.Plan(**vars(job(source, out, **LINE | changes)), trial_seconds=1.0)


def test_the_passes_are_those_of_the_run(tmp_path):
    source = dataset(tmp_path / "in", shards=3, images=6)
    estimate = plan.estimate(planned(source, tmp_path / "out"))
    explain.run(job(source, tmp_path / "out", **LINE))
    manifest = tables.open(str(tmp_path / "out")).manifest
    for payer, spent in manifest["passes"].items():
        for kind in PASSES:
            assert estimate.passes[payer, kind] == pytest.approx(spent[kind]), (payer, kind)
    assert estimate.images == manifest["counts"]["images"] == 18
    assert estimate.tasks == len(list(Path(tmp_path, "out", "tasks").rglob("receipt.json"))) == 6
    assert estimate.objects == sum(path.is_file() for path in Path(tmp_path, "out", "tasks").rglob("*"))
    assert estimate.bytes_read == pytest.approx(manifest["spent"]["bytes_read"], rel=0.2)  # the images tried are not all alike


def test_only_what_is_missing_has_a_price(tmp_path):
    source = dataset(tmp_path / "in")
    explain.run(job(source, tmp_path / "out", **LINE | {"methods": ("grad_cam",), "metrics": ()}))
    more = plan.estimate(planned(source, tmp_path / "out", metrics=()))
    assert ("grad_cam", "head_backwards") not in {key for key, count in more.passes.items() if count}
    assert more.passes["rise", "forwards"] == 100 * 12
    explain.run(job(source, tmp_path / "out", **LINE | {"metrics": ()}))
    nothing = plan.estimate(planned(source, tmp_path / "out", metrics=()))
    assert nothing.images == nothing.tasks == 0 and not any(nothing.passes.values())
    assert [*plan.lines(nothing, planned(source, tmp_path / "out"), None)] == [
        "nothing is missing: the job would publish what it published last"
    ]


def test_a_plan_leaves_nothing_behind(tmp_path):
    source = dataset(tmp_path / "in")
    plan.estimate(planned(source, tmp_path / "out"))
    assert [path for path in Path(tmp_path, "out").rglob("*") if path.is_file()] == []


def test_a_plan_is_a_line_of_explain_and_prints_the_dearest_first(tmp_path, capsys):
    source = dataset(tmp_path / "in")
    prices = tmp_path / "prices.toml"
    prices.write_text('currency = "EUR"\nworker_hour = 36000\nwrites = 2.5\n')
    line = ["--source", source, "--backbone", "tests.tiny:build", "--image-size", "64", "--out", str(tmp_path / "out"), "--workers", "0"]
    line += ["--methods", "rise(masks=500)", "grad_cam", "--trial-seconds", "1", "--for-workers", "1", "4", "--prices", str(prices)]
    assert plan.main(line) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[0] == "method" and printed[1].split()[:2] == ["rise", "500"]
    assert any(text.startswith("time: ") and " on 1 worker," in text and text.endswith(" on 4 workers") for text in printed)
    assert any(text.startswith("price: ") and " EUR (" in text and "for requests" in text for text in printed)


def test_images_that_cannot_be_read_are_told_and_in_no_number(tmp_path):
    source = dataset(tmp_path / "in", shards=1, images=2)
    Path(tmp_path / "in", "00000.tar").write_bytes(tar_bytes([("bad", good(0) | {"png": b"no image"})]))
    estimate = plan.estimate(planned(source, tmp_path / "out"))
    assert estimate.failures == ("none of the images could be decoded",) and estimate.images == 0
    assert [*plan.lines(estimate, planned(source, tmp_path / "out"), None)][
        -1
    ] == "not in these numbers: none of the images could be decoded"


def test_sums_by_hand():
    facts = {
        "passes": {"rise": {"images": 4, "forwards": 400, "backwards": 0, "heads": 0, "head_backwards": 0}},
        "payer_seconds": {"rise": 8},
    }
    dear = Part(tasks=2, images=10, trial=Trial(4, 1.0, 8.0, 1.0, 4_000, 8_000, 3, facts))
    cheap = Part(tasks=1, images=6, trial=Trial(2, 1.0, 1.0, 1.0, 10, 20, 2))
    lost = Part(tasks=1, images=100, trial=Trial(1, failure="gone"))
    result = estimate_of([dear, cheap, lost], start_seconds=10.0, peak_bytes=7)
    assert (result.images, result.tasks, result.objects, result.writes, result.reads) == (16, 3, 8, 8, 11)
    assert result.passes["rise", "forwards"] == 1000 and result.passes["rise", "seconds"] == 20
    assert (result.read_seconds, result.explain_seconds, result.land_seconds) == (2.5 + 3, 20 + 3, 2.5 + 3)
    assert result.longest_task == pytest.approx(12.5)
    assert result.wall_seconds(1) == pytest.approx(10 + 34) and result.wall_seconds(100) == pytest.approx(10 + 12.5)
    assert (result.bytes_read, result.bytes_written, result.failures) == (10_030, 20_060, ("gone",))
    money = result.money(Prices("EUR", worker_hour=36.0, gb_month=1e9, gb_read=1e9, reads=1000, writes=2000))
    assert money == pytest.approx({"work": 0.34, "requests": 11 + 16, "reading": 10_030, "a month of storage": 20_060})


def test_tasks_are_tried_once_for_each_set_of_missing_outputs(tmp_path):
    from dataclasses import replace

    from pipeline import sources
    from pipeline.plan.tasks import cut_tasks

    checked = check_job(job(dataset(tmp_path / "in"), tmp_path / "out", **LINE))
    tasks = cut_tasks(checked.job, {shard: sources.index(shard) for shard in checked.shards})
    open_tasks = [replace(task, missing=(0, 1) if i % 2 else (0,)) for i, task in enumerate(tasks)]
    tried = []
    parts = parts_of(open_tasks, lambda task: tried.append(task.missing) or Trial(1))
    assert tried == [(0,), (0, 1)] and sum(part.images for part in parts) == sum(task.count for task in tasks)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worker_hour = -1", "worker_hour is -1"),
        ("gpu = 2", "unknown price"),
        ("writes = 'dear'", "writes is 'dear'"),
        ("=", "prices.toml"),
    ],
)
def test_prices_that_are_none_are_refused(tmp_path, text, words):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(Refusal, match=words):
        Prices.read(str(path))
