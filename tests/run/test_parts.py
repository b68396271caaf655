"""A job's last line tells the truth about its parts: what failed hides nothing that worked, and is told where the user looks."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import explain, pack, probe, score, status
from pipeline import tables
from pipeline.backbones import load as load_backbone
from pipeline.engine import attempts
from pipeline.engine.attempts import Attempts
from pipeline.families import METHODS, METRICS, Attention, Cam, Descent, Latent, Masked, Metric, Optimised, Spots, Walk
from pipeline.families import Path as PathFamily
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.plan.tasks import cut_tasks
from pipeline.refusal import Refusal, counted
from pipeline.score.partials import totals
from pipeline.sources import list_shards, numbered_index
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.grammar import parse
from pipeline.stages.explainer import Explainer
from pipeline.tables.publish import current
from pipeline.train.learner import Learner
from pipeline.train.team import Team
from pipeline.train.trial import LearningRateTrial
from tests.jobs import content, job
from tests.registries import registries
from tests.shards import dataset, encoded, good, picture, tar_bytes

BAD = """
from pipeline.families import cam, metric

@cam
def bad(A):
    raise ValueError("no such layer")

@cam
def fussy(A):
    if len(A) > 1:
        raise ValueError("one at a time")
    return A.sum(1)

@cam
def turned(A):
    return A.sum(2)

@metric
def broken(S):
    raise KeyError("object")
"""


@pytest.fixture(autouse=True)
def own_registries():
    with registries():
        yield


@pytest.fixture
def plugin(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(BAD)
    return str(tmp_path / "mine.py")


def line(source: str, out, *more: str) -> list[str]:
    return ["--source", source, "--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0", "--out", str(out), *more]


# --- what fails is tried no more than it takes, and takes nothing along


class Computed:
    """A computation that fails where a batch holds a bad position; counts its calls and the positions in them."""

    def __init__(self, bad, error=ValueError):
        self.bad, self.error, self.calls, self.images = frozenset(bad), error, 0, 0

    def __call__(self, positions):
        self.calls, self.images = self.calls + 1, self.images + len(positions)
        if self.bad & {*positions}:
            raise self.error("bad")
        return [f"map {i}" for i in positions]


@settings(deadline=None)
@given(st.integers(1, 70).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=attempts.GIVEN_UP - 1))))
def test_a_bad_image_takes_none_of_its_neighbours_along_and_none_is_tried_twice_by_itself(case):
    count, bad = case
    compute = Computed(bad)
    results = Attempts()("m", count, compute)
    assert [isinstance(result, ValueError) for result in results] == [i in bad for i in range(count)]
    assert all(results[i] == f"map {i}" for i in range(count) if i not in bad)
    assert compute.images <= 2 * count


@pytest.mark.parametrize("count", [40, 64, 256])
def test_what_never_works_is_hardly_tried_again(count, caplog):
    tries, compute = Attempts(), Computed(range(count))
    for _ in range(5):
        assert all(isinstance(result, ValueError) for result in tries("method bad", count, compute))
    assert compute.calls == 5 + attempts.GIVEN_UP + 4 * attempts.PROBES, "each batch, and a few images by themselves"
    assert caplog.messages == [f"method bad fails on all of {count} images: ValueError: bad"], "told once"


@pytest.mark.parametrize("bad", [range(50), range(40, 64)], ids=["first class", "last class"])
def test_a_class_that_fails_is_lost_and_the_next_is_not_though_many_failed_before(bad):
    """Shards are often sorted by class: whole batches fail, then one in part."""
    tries, results = Attempts(), []
    for start in (0, 32, 64):
        compute = Computed({i - start for i in bad})
        results += tries("m", 32, compute)
    assert [isinstance(result, ValueError) for result in results] == [i in bad for i in range(96)]


def test_a_refusal_is_about_all_images_and_is_not_tried_again():
    compute = Computed(range(8), Refusal)
    assert all(isinstance(result, Refusal) for result in Attempts()("m", 8, compute)) and compute.calls == 1


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError], ids=lambda error: error.__name__)
def test_what_runs_out_of_memory_is_halved_until_it_fits(error):
    sizes = []

    def compute(positions):
        sizes.append(len(positions))
        if len(positions) > 3:
            raise error("out of memory")
        return positions

    assert Attempts()("m", 16, compute) == [*range(16)] and sizes == [16, 8, 4, 2, 2, 4, 2, 2, 8, 4, 2, 2, 4, 2, 2]


@pytest.fixture(scope="module", params=["tests.tiny:build", "tests.tiny:curved"])
def backbone(request):
    return load_backbone(request.param, image_size=64)


def images(count: int) -> DecodedImages:
    pixels = np.stack([np.asarray(picture(i)).transpose(2, 0, 1) for i in range(count)])
    return DecodedImages(
        pixels, [ImageRow(image_id=f"{i:03}", key=f"{i}", label=i % 5) for i in range(count)], [f"{i}" for i in range(count)]
    )


def explained(backbone, decoded, methods, metrics=(), tally=None, **how):
    spec, _ = fit_to_backbone(build_spec(methods, ["label"], metrics=metrics), backbone)
    results = Explainer(backbone, spec, **how)(decoded, outputs_of(spec, backbone, ()), tally)
    rows = {(o.table, o.method and o.method.alias, o.metric and o.metric.alias): table.to_pylist() for o, table, _ in results}
    errors = [error for _, _, table in results for error in table.to_pylist()]
    return rows, errors


def test_an_image_by_itself_has_the_map_it_has_among_others(backbone, monkeypatch):
    """The forward of a batch is cut into those of its images; gradients come from the head of these alone."""
    plain = METHODS["grad_cam"]
    whole, _ = explained(backbone, images(5), ["grad_cam"])
    only = lambda A, dA: plain.map(A, dA) if len(A) == 1 else 1 / 0  # noqa: E731
    monkeypatch.setitem(METHODS, "grad_cam", Cam("grad_cam", only))
    alone, errors = explained(backbone, images(5), ["grad_cam"])
    key = ("maps", "grad_cam", None)
    assert not errors and [row["image_id"] for row in alone[key]] == [row["image_id"] for row in whole[key]]
    for one, other in zip(alone[key], whole[key], strict=True):
        assert max(abs(a - b) for a, b in zip(one["map"], other["map"], strict=True)) <= 1
        assert one["map_max"] == pytest.approx(other["map_max"], rel=1e-4)


@pytest.mark.parametrize("bad", [{0}, {6}, {2, 3}, {0, 1, 2, 3, 4, 5}], ids=str)
def test_a_network_that_fails_on_some_images_explains_the_others_in_their_order(backbone, monkeypatch, bad):
    trunk, decoded = type(backbone).trunk, images(7)
    dark = {i: decoded.pixels[i] * 0 for i in bad}
    for i, pixels in dark.items():
        decoded.pixels[i] = pixels

    def fails_on_black(self, x):
        if (x == x.amax((2, 3), keepdim=True)).all((1, 2, 3)).any():
            raise RuntimeError("a black image")
        return trunk(self, x)

    monkeypatch.setattr(type(backbone), "trunk", fails_on_black)
    rows, errors = explained(backbone, decoded, ["grad_cam"])
    assert [row["image_id"] for row in rows["maps", "grad_cam", None]] == [f"{i:03}" for i in range(7) if i not in bad]
    assert {(error["image_id"], error["message"]) for error in errors} == {(f"{i:03}", "a black image") for i in bad}


def test_a_metric_that_cannot_change_some_images_costs_no_map_and_no_other_score(backbone, monkeypatch):
    from pipeline.engine import perturbed

    plain, passed = perturbed.PAINTERS, []

    def fails(dimmed, batch, maps):
        passed.append(len(batch.pixels))
        if any(S is not None and i == 0 and len(maps.S) == 7 for i, S in enumerate(maps.S)) or batch.pixels[0].float().mean() == 0:
            raise RuntimeError("a black image")
        return plain_dim(dimmed, batch, maps)

    kind = next(kind for kind in plain if kind.__name__ == "Dimmed")
    plain_dim = plain[kind]
    monkeypatch.setitem(perturbed.PAINTERS, kind, fails)
    decoded, tally = images(7), Counter()
    decoded.pixels[0] = 0
    rows, errors = explained(backbone, decoded, ["grad_cam"], ["ad", "energy"], tally)
    values = {row["image_id"]: row["value"] for row in rows["scores", "grad_cam", "ad"]}
    assert tally["look", "forwards"] == 7 and len(rows["maps", "grad_cam", None]) == 7
    assert [values[f"{i:03}"] is None for i in range(7)] == [True] + [False] * 6
    assert {error["image_id"] for error in errors} == {"000"}


# --- N1: one bad method hides none of the good ones


def test_a_method_that_fails_beside_one_that_works_is_told_and_hides_nothing(tmp_path, plugin, capsys, caplog):
    source = dataset(tmp_path / "shards")
    explain.run(job(source, tmp_path / "alone", methods=("grad_cam",), targets=("label",), metrics=("energy",)))
    more = ["--methods", "grad_cam", "bad", "--metrics", "energy", "--plugins", plugin]
    assert explain.main(line(source, tmp_path / "out", *more)) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert "method bad failed on 12 of 12 images (ValueError: bad for none: no such layer)" in last and "by every method" in last
    assert caplog.text.count("method bad fails on all of 4 images: ValueError: no such layer") == 1
    mine, alone = content(tmp_path / "out"), content(tmp_path / "alone")
    assert mine["maps"] == alone["maps"]
    assert [row["energy"] for row in mine["metrics"] if row["method"] == "grad_cam"] == [
        row["energy"] for row in alone["metrics"] if row["method"] == "grad_cam"
    ]
    run = tables.open(str(tmp_path / "out"))
    assert run.manifest["failures"] == [
        {"method": "bad", "images": 12, "of": 12, "worked": False, "first": "ValueError: bad for none: no such layer"}
    ]
    events = [json.loads(text) for text in (tmp_path / "out" / "jobs" / "default.events.jsonl").read_text().splitlines()]
    told = [event["failures"] for event in events if event["event"] == "task_done"]
    assert len(told) == 3 and all([4, "ValueError: bad for none: no such layer"] in failures.values() for failures in told)
    assert run.manifest["passes"]["look"]["forwards"] == 12, "no image was looked at twice"
    assert explain.main(line(source, tmp_path / "out", *more)) == 3, "nothing new, and still not complete"
    status.main(["--out", str(tmp_path / "out")])
    assert "nothing new" in (again := capsys.readouterr().out) and again.count("method bad failed on 12 of 12 images") == 2


def test_where_nothing_worked_the_last_run_stays_and_one_call_finds_the_errors(tmp_path, plugin, capsys):
    source = dataset(tmp_path / "shards", shards=1)
    explain.run(job(source, tmp_path / "out", methods=("grad_cam",), targets=("label",)))
    before = current(str(tmp_path / "out"))
    assert explain.main(line(source, tmp_path / "out", "--methods", "bad", "--plugins", plugin)) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "method bad failed on 4 of 4 images (ValueError: bad for none: no such layer)" in told and "tables.last(" in told
    assert current(str(tmp_path / "out")) == before
    run = tables.last(str(tmp_path / "out"))
    assert {row["message"] for row in run.table("errors").to_pylist()} == {"bad for none: no such layer"}
    assert tables.open(str(tmp_path / "out")).table("errors").num_rows == 0 and run.run_id not in before.values()
    with pytest.raises(Refusal, match="no job named 'nightly'"):
        tables.last(str(tmp_path / "out"), "nightly")


def test_where_no_image_can_be_read_the_errors_are_found_as_well(tmp_path, monkeypatch, capsys):
    from pipeline.sources import ShardError
    from pipeline.stages import read as stage

    def gone(*_):
        raise ShardError("Gone", "the store lost it")

    monkeypatch.setattr(stage, "read", gone)
    source = dataset(tmp_path / "shards", shards=2)
    assert explain.main(line(source, tmp_path / "out", "--metrics", "energy")) == 2
    assert "the store lost it" in capsys.readouterr().err
    rows = tables.last(str(tmp_path / "out")).table("errors").to_pylist()
    assert [(row["shard"], row["error"]) for row in rows] == [("00000.tar", "Gone"), ("00001.tar", "Gone")]


def test_a_network_that_fails_on_every_image_is_passed_once_more_and_is_the_reason(tmp_path, monkeypatch, capsys, caplog):
    from pipeline.backbones import Backbone

    passed = []

    def fails(self, x):
        passed.append(len(x))
        raise RuntimeError("a bad weight")

    source = dataset(tmp_path / "shards", shards=1, images=6)
    checked = explain.check_job(job(source, tmp_path / "out", methods=("grad_cam",)))
    monkeypatch.setattr(Backbone, "trunk", fails)
    with pytest.raises(Refusal, match="not one of 6 images could be explained.*the first of its errors: RuntimeError: a bad weight"):
        explain.carry_out(replace(checked, job=replace(checked.job, task_images=6)))
    assert sum(passed) == 12 and "the network fails on all of 6 images: RuntimeError: a bad weight" in caplog.text


@pytest.mark.parametrize(
    ("methods", "metrics", "code", "words"),
    [
        (("grad_cam", "fussy"), (), 0, None),
        (("grad_cam", "turned"), (), 3, "method turned failed on 4 of 4 images (Refusal: turned for none: its function gives"),
        (("grad_cam",), ("broken",), 3, "metric broken failed on 4 of 4 images (KeyError: broken of grad_cam for label: 'object')"),
    ],
    ids=["works by itself", "wrong shape", "metric"],
)
def test_the_last_line_names_what_failed_and_nothing_else(tmp_path, plugin, capsys, methods, metrics, code, words):
    source = dataset(tmp_path / "shards", shards=1)
    more = ["--methods", *methods, *(["--metrics", *metrics] if metrics else []), "--plugins", plugin]
    assert explain.main(line(source, tmp_path / "out", *more)) == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert (words in last) if words else ("failed on" not in last and "4 of 4 images explained, 0 failed" in last)
    assert len([row for row in content(tmp_path / "out")["maps"] if row["method"] == "grad_cam"]) == 4


# --- N2: shapes are checked where they are born

B, CELLS = 3, [8, 8]
WRONG = {
    "cam turned": (Cam("wrong", lambda A: A.sum(2)), [B, 12, 8], [B, 8, 8]),
    "cam of one image": (Cam("wrong", lambda A: A.sum((0, 1))), [8, 8], [B, 8, 8]),
    "cam of pixels": (Cam("wrong", lambda A: A.sum(1), grid="pixels"), [B, 8, 8], [B, 64, 64]),
    "masked": (Masked("wrong", lambda A, clean: A.sum(2)), [B, 12, 8], [B, 8, 8]),
    "masked in a row": (Masked("wrong", lambda spots: spots.prob, {"spots": lambda: Spots(4, 3.0)}), [B, 16], [B, 8, 8]),
    "path": (PathFamily("wrong", lambda x: Walk([(x, 1.0)], lambda g, w: g.abs().amax(2))), [B, 3, 64], [B, 64, 64]),
    "optimised": (
        Optimised(
            "wrong",
            lambda pixels: Descent(
                torch.ones(len(pixels), 4, 4), (pixels,), lambda u, step, x: (x[:, None] * u.mean((1, 2))[:, None, None, None, None], 0.0),
                lambda scores, clean: scores[:, 0], lambda u, x: u.sum(1), 1, 0.1,
            ),
        ),
        [B, 4],
        [B, 64, 64],
    ),
}  # fmt: skip


def answer(backbone, entry):
    METHODS[entry.name] = entry
    return explained(backbone, images(B), [entry.name])


@pytest.mark.parametrize("name", WRONG)
def test_a_map_of_the_wrong_shape_is_refused_with_both_shapes(backbone, name):
    entry, given, due = WRONG[name]
    rows, errors = answer(backbone, entry)
    assert not rows["maps", "wrong", None] and len(errors) == B
    assert all(str(shape) in errors[0]["message"] for shape in (given, due)), errors[0]["message"]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda A: A.sum(1).numpy(), "gives a ndarray"),
        (lambda A: A.sum(1).tolist(), "gives a list"),
        (lambda A: torch.fft.fft(A.sum(1)), "gives complex64 numbers"),
        (lambda A: None, "gives a NoneType"),
    ],
)
def test_a_map_that_is_no_tensor_of_real_numbers_is_refused(backbone, result, words):
    rows, errors = answer(backbone, Cam("wrong", result))
    assert not rows["maps", "wrong", None] and words in errors[0]["message"]


@pytest.mark.parametrize(
    "result", [lambda A: A.sum(1).double(), lambda A: A.sum(1).half(), lambda A: (A.sum(1) * 9).long()], ids=["double", "half", "long"]
)
def test_any_kind_of_real_numbers_is_a_map(backbone, result):
    rows, errors = answer(backbone, Cam("wrong", result))
    assert len(rows["maps", "wrong", None]) == B and not errors


def test_latent_and_attention_maps_are_checked_too():
    calm = load_backbone("tests.tiny:calm", image_size=64)
    _, errors = answer(calm, Latent("wrong", lambda g, d: g.sum(2)))
    assert f"[{B}, 5, 8]" in errors[0]["message"] and f"[{B}, 8, 8]" in errors[0]["message"]
    vit = load_backbone("timm/test_vit", args={"pretrained": "false", "num_classes": "5", "img_size": "64"}, image_size=64)
    tokens = 1 + 16
    for wrong in (lambda A: A[-1], lambda A, dA: A[-1][:, 0, 1:]):
        _, errors = answer(vit, Attention("wrong", wrong))
        assert f"[{B}, {tokens}]" in errors[0]["message"] and "shares of tokens" in errors[0]["message"]
    _, errors = answer(vit, Attention("wrong", lambda x: x[-1].mean(2)))
    assert f"[{B}, {tokens}]" in errors[0]["message"] and "ends of the stream" in errors[0]["message"]


TWO = {"odd_a": None, "odd_b": None}


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric("odd", lambda S: [1.0, 2.0, 3.0], TWO), "gives 3 numbers; it fills 2 columns: odd_a, odd_b"),
        (Metric("odd", lambda S: 1.0, TWO), "gives 1 number; it fills 2 columns: odd_a, odd_b"),
        (Metric("odd", lambda S: S, {"odd": None}), "gives 4096 numbers; it fills 1 column: odd"),
        (Metric("odd", lambda S: {"odd_b": 1.0, "odd_c": 2.0}, TWO), "gives odd_b, odd_c by name; it fills odd_a, odd_b"),
        (Metric("odd", lambda S: [1 + 2j, 3.0], TWO), "no real number for odd_a, odd_b"),
        (Metric("odd", lambda S: [[1.0], [2.0, 3.0]], TWO), "no real number for odd_a, odd_b"),
        (Metric("odd", lambda S: [0.5, 0.5], {"odd": None}, curves=True), "gives numbers [2]; curves of its 1 column are [1, N]"),
        (Metric("odd", lambda S: np.ones((3, 5)), TWO, curves=True), "gives numbers [3, 5]; curves of its 2 columns are [2, N]"),
        (Metric("odd", lambda S: 3, {"odd": None}, corpus_level=lambda hits: hits), "gives a int"),
        (Metric("odd", lambda S: {"hit": [1]}, {"odd": None}, corpus_level=lambda hits, n: hits / n), "counts hit; its corpus_level asks for hits"),
        (Metric("odd", lambda S: {"hits": [[1]]}, {"odd": None}, corpus_level=lambda hits: hits), "counts hits as numbers [1, 1]"),
        (Metric("odd", lambda S: {"hits": [1, 2]}, {"odd": None}, corpus_level=lambda hits: hits), "gives 2 numbers; it fills 1 column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_metric_of_the_wrong_shape_is_refused_with_both(backbone, metric, words):
    METRICS["odd"] = metric
    rows, errors = explained(backbone, images(B), ["grad_cam"], ["odd", "complexity"])
    mine = [error for error in errors if error["message"].startswith("odd of random")]
    assert len({error["image_id"] for error in mine}) == B and words in mine[0]["message"], mine
    assert all(row["value"] is not None for row in rows["scores", "random", "complexity"]), "others are scored"


def test_counts_of_other_lengths_are_refused_and_the_sums_stay():
    lengths = iter([2, 2, 3, 2, 2, 2])
    METRICS["odd"] = Metric("odd", lambda S: {"hits": [1] * next(lengths)}, {"odd": None}, corpus_level=lambda hits: hits.sum())
    rows, errors = explained(load_backbone("tests.tiny:build", image_size=64), images(3), ["random"], ["odd"])
    assert [(error["image_id"], error["message"]) for error in errors] == [
        ("002", "odd of random for none: it counts hits as 3 numbers, and of other images as 2")
    ]
    sums = {row["kind"]: row["values"] for row in rows["partials", "random", "odd"]}
    assert (sums["n"], sums["hits"]) == ([2.0], [2.0, 2.0])


def test_a_number_of_the_dataset_that_cannot_be_made_is_null_and_told_once(caplog):
    def fails(hits, n):
        raise ZeroDivisionError("no hit")

    METRICS["lost"] = Metric("lost", lambda S: {"hits": [1]}, {"lost": None}, corpus_level=fails)
    _, errors = explained(load_backbone("tests.tiny:build", image_size=64), images(B), ["grad_cam"], ["lost"])
    assert not errors, "one image may well be too few for it"
    choice = parse("lost", METRICS, "metric")
    for _ in range(3):
        assert totals(choice, {"n": np.ones(1), "hits": np.ones(1)}) == {"lost": None}
    assert caplog.text.count("metric lost has no number of the dataset: ZeroDivisionError: no hit") == 1


# --- N3: classes without images are refused before the features


@pytest.fixture
def gaps(tmp_path) -> Path:
    """A folder of three classes, and their names with a fourth."""
    for name in "abc":
        for i in range(6):
            path = tmp_path / "root" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(i)))
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    return tmp_path


def probe_line(here: Path, *more: str) -> list[str]:
    fixed = ["--backbone", "timm/test_resnet", "--backbone-args", "pretrained=false", "--image-size", "64", "--workers", "0"]
    return ["--train", f"{here}/root", "--classes", f"{here}/four.txt", "--out", f"{here}/out", *fixed, "--solvers", "lbfgs", *more]


def test_a_probe_with_empty_classes_is_refused_before_a_feature_is_computed(gaps, capsys):
    assert probe.main(probe_line(gaps)) == 2
    assert "1 of 4 classes have no training image (d)" in capsys.readouterr().err
    assert not (gaps / "out" / "tasks").exists()
    assert probe.main(probe_line(gaps, "--keep-empty")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("val (trained on as well)" in each for each in lines) and not any("train (" in each for each in lines)


def test_images_that_others_validate_are_no_training_images(gaps, capsys):
    """Class c is there, and in the split that is not trained on alone."""
    for split, names in (("train", "ab"), ("val", "abc")):
        samples = [
            (f"{name}{i}", {"png": encoded(picture(i)), "cls": str("abcd".index(name)).encode()}) for name in names for i in range(4)
        ]
        (gaps / f"{split}.tar").write_bytes(tar_bytes(samples))
    command = ["--train", f"{gaps}/train.tar", "--val", f"{gaps}/val.tar", *probe_line(gaps)[2:]]
    assert probe.main(command) == 2
    assert "2 of 4 classes have no training image (c, d)" in capsys.readouterr().err
    assert probe.main([*command, "--keep-empty"]) == 0
    assert "trained on as well" not in capsys.readouterr().out, "a probe with validation images of its own is not refitted"


def test_pack_tells_empty_classes(gaps, capsys):
    table = "path,label\n" + "".join(f"root/{name}/{i}.png,{name}\n" for name in "abc" for i in range(2))
    (gaps / "images.csv").write_text(table)
    (gaps / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    assert pack.main(["--root", str(gaps), "--layout", "csv", "--out", str(gaps / "packed"), "--workers", "0"]) == 0
    content = json.loads((gaps / "packed" / "pack.json").read_text())
    told = capsys.readouterr().out
    assert (f"{counted(len(content['empty_classes']), 'classes')} without an image" in told) is bool(content["empty_classes"])


# --- N4: a run says what it no longer holds, and may keep it


def test_a_run_of_fewer_parts_says_so_before_and_after(tmp_path, capsys):
    source = dataset(tmp_path / "shards", shards=2)
    many = ["--methods", "grad_cam", "layer_cam", "--targets", "label", "finer", "--metrics", "energy", "iou"]
    assert explain.main(line(source, tmp_path / "out", *many)) == 0
    assert "no longer holds" not in capsys.readouterr().out
    few = ["--methods", "grad_cam", "--limit", "5", "--no-store", "features"]
    dropped = {"methods": ["layer_cam"], "targets": ["finer"], "metrics": ["energy", "iou"], "columns": ["features"], "images": 3}
    words = "method layer_cam, target finer, metrics energy iou, column features, 3 images"
    assert explain.main(line(source, tmp_path / "out", *few, "--dry")) == 0
    assert f"the run published last holds {words}, and this one will not; --add keeps" in capsys.readouterr().err
    assert explain.main(line(source, tmp_path / "out", *few)) == 0
    told = capsys.readouterr()
    assert words in told.err and told.out.splitlines()[-1].endswith(f"it no longer holds {words}")
    assert tables.open(str(tmp_path / "out")).manifest["dropped"] == dropped
    events = [json.loads(text) for text in (tmp_path / "out" / "jobs" / "default.events.jsonl").read_text().splitlines()]
    assert [{key: event[key] for key in dropped} for event in events if event["event"] == "dropped"] == [dropped]
    assert explain.main(line(source, tmp_path / "out", *few)) == 0
    assert "no longer holds" not in capsys.readouterr().out, "nothing new drops nothing"


def test_a_run_of_fewer_shards_says_so(tmp_path, capsys):
    explain.run(job(dataset(tmp_path / "shards", shards=3), tmp_path / "out", methods=("grad_cam",)))
    explain.report(explain.run(job(f"{tmp_path}/shards/0000[01].tar", tmp_path / "out", methods=("grad_cam",))))
    assert capsys.readouterr().out.splitlines()[-1].endswith("it no longer holds 1 shard")


def test_explain_after_score_says_that_the_scores_go_or_keeps_them(tmp_path, capsys):
    source = dataset(tmp_path / "shards", shards=1)
    plain = line(source, tmp_path / "out", "--methods", "grad_cam", "--metrics", "energy")
    explain.main(plain)
    score.main(["--out", str(tmp_path / "out"), "--metrics", "f1"])
    before = content(tmp_path / "out")
    capsys.readouterr()
    assert explain.main([*plain, "--add"]) == 0
    assert "nothing new" in capsys.readouterr().out and content(tmp_path / "out") == before
    assert explain.main(plain) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("it no longer holds metric f1")


def test_what_is_added_stands_beside_what_the_run_has_and_computes_that_alone(tmp_path):
    source, out = dataset(tmp_path / "shards", shards=1), tmp_path / "out"
    shared = {"targets": ("label", "f08=finer(gamma=0.8)")}
    explain.run(job(source, out, methods=("grad_cam", "o3=opti_cam(steps=3)"), metrics=("energy",), **shared))
    score.main(["--out", str(out), "--metrics", "pointing"])
    receipts = {*out.glob("tasks/**/receipt.json")}
    added = job(
        source, out, methods=("layer_cam", "o2=opti_cam"), targets=("finer",), metrics=("iou",), method_args=("opti_cam.steps=2",), add=True
    )
    explain.run(added)
    run = tables.open(str(out))
    pairs = {(row["method"], row["target"]) for row in content(out)["maps"] if row["method"] not in ("fake_cam", "random")}
    assert pairs == {(method, target) for method in ("grad_cam", "o3", "layer_cam", "o2") for target in ("label", "f08", "finer")}
    steps = {entry["name"]: entry.get("steps") for entry in run.manifest["methods"]}
    assert (steps["o3"], steps["o2"]) == (3, 2)
    assert {entry["name"]: entry["stored"] for entry in run.manifest["metrics"]} == {"energy": False, "iou": False, "pointing": True}
    assert not run.manifest["dropped"] and len(run.sql("SELECT * FROM metrics WHERE pointing IS NULL AND method = 'layer_cam'")) == 0
    new = [json.loads(path.read_text())["cells"].values() for path in {*out.glob("tasks/**/receipt.json")} - receipts]
    assert {part["table"] for cells in new for part in cells} == {"maps", "scores"}
    assert not explain.run(replace(added, methods=("grad_cam",), targets=("label",), metrics=(), method_args=())).new
    assert score.main(["--out", str(out), "--metrics", "f1"]) == 0, "a run that was added to is scored as any other"


def test_to_add_to_nothing_is_to_begin(tmp_path):
    assert explain.run(job(dataset(tmp_path / "shards", shards=1), tmp_path / "out", methods=("grad_cam",), add=True)).complete


# --- N5: which images, which input, which plugin


def indexes(source: str) -> dict:
    shards = list_shards([source])
    return {shard: numbered_index((0, shard))[1] for shard in shards}


def test_a_sample_is_drawn_by_seed_and_shard_from_all_shards(tmp_path):
    asked = job(dataset(tmp_path / "shards", shards=4, images=10), tmp_path / "out", sample=12, task_images=5)

    def drawn(**changes) -> set:
        changed = replace(asked, **changes)
        return {(t.shard.name, i) for t in cut_tasks(changed, indexes(changed.source[0])) for i in t.chosen}

    first = drawn()
    assert len(first) == 12 and len({shard for shard, _ in first}) > 1 and drawn() == first and drawn(seed=1) != first
    assert drawn(sample=5) < first < drawn(sample=40), "a larger sample holds the smaller ones"
    assert len(drawn(sample=41)) == 40
    tasks = cut_tasks(asked, indexes(asked.source[0]))
    assert all(0 < task.count <= 5 for task in tasks) and len({task.id for task in tasks}) == len(tasks)
    more = drawn(source=(dataset(tmp_path / "shards", shards=5, images=10),))
    assert {image for image in more if image[0] != "00004.tar"} < first, "another shard changes no number of the others"


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_the_images_of_a_sample_are_those_of_the_whole(tmp_path, kind, capsys):
    source = dataset(tmp_path / "shards", shards=2, images=6)
    if kind == "folder":
        for i in range(12):
            (tmp_path / "folder" / f"class{i % 5}").mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / f"class{i % 5}" / f"{i}.png").write_bytes(good(i)["png"])
        source = str(tmp_path / "folder")
    whole = explain.run(job(source, tmp_path / "whole", methods=("grad_cam",), targets=("label",), batch_size="1"))
    capsys.readouterr()
    part = explain.run(job(source, tmp_path / "part", methods=("grad_cam",), targets=("label",), batch_size="1", sample=5))
    assert "--sample 5 takes 5 of 12 images, drawn by --seed 0" in capsys.readouterr().err
    assert (whole.counts["images"], part.counts["images"], part.counts["explained"]) == (12, 5, 5)
    everything = {row["image_id"]: row for row in content(tmp_path / "whole")["maps"]}
    assert [everything[row["image_id"]] for row in content(tmp_path / "part")["maps"]] == content(tmp_path / "part")["maps"]
    again = explain.run(job(source, tmp_path / "part", methods=("grad_cam",), targets=("label",), batch_size="1", sample=5))
    assert not again.new and score.main(["--out", str(tmp_path / "part"), "--metrics", "energy"]) == 0


def test_limit_says_which_images_it_takes(tmp_path, capsys):
    source = dataset(tmp_path / "shards", shards=1)
    for limit, words in (
        (2, "--limit 2 takes the first 2 of 4 images, shard by shard; --sample 2 would draw them"),
        (4, "--limit 4: there are 4 images, and all are taken"),
        (1000000, "--limit 1000000: there are 4 images, and all are taken"),
    ):
        explain.run(job(source, tmp_path / "out", limit=limit, dry=True))
        assert words in capsys.readouterr().err
    with pytest.raises(Refusal, match="--limit 3 and --sample 2"):
        job(source, tmp_path / "out", limit=3, sample=2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "64 x 64 pixels (squash, bicubic), mean 0.485 0.456 0.406, std 0.229 0.224 0.225"),
        (("mean=0.5", "std=0.25"), "mean 0.5 0.5 0.5, std 0.25 0.25 0.25"),
    ],
)
def test_what_a_network_takes_is_told(tmp_path, capsys, args, words):
    source = dataset(tmp_path / "shards", shards=1)
    explain.run(job(source, tmp_path / "out", methods=("grad_cam",), backbone_args=args, dry=True))
    assert words in capsys.readouterr().err
    explain.run(job(source, tmp_path / "out", methods=("grad_cam",), backbone_args=args))
    assert words in capsys.readouterr().err
    prepare = tables.open(str(tmp_path / "out")).manifest["backbone"]["prepare"]
    assert " ".join(f"{value:.4g}" for value in prepare["mean"]) in words


@pytest.mark.parametrize(("flag", "name"), [("--methods", "grad_camm"), ("--methods", "mine"), ("--metrics", "enrgy")])
def test_an_unknown_name_may_be_in_a_plugin(tmp_path, capsys, flag, name):
    assert explain.main(line(dataset(tmp_path / "shards", shards=1), tmp_path / "out", flag, name)) == 2
    assert "--plugins FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "plural", "words"),
    [(0, "images", "0 images"), (1, "images", "1 image"), (1, "classes", "1 class"), (1, "shards", "1 shard"), (2, "groups", "2 groups")],
)
def test_a_count_of_one_is_no_plural(number, plural, words):
    assert counted(number, plural) == words


# --- F23: nothing to explain is told before the passes, with the reason


def tarred(folder: Path, member: str, contents) -> str:
    samples = [(f"image{i}", {"png": good(i)["png"], member: content.encode()}) for i, content in enumerate(contents)]
    (folder / "a.tar").write_bytes(tar_bytes(samples))
    return f"{folder}/a.tar"


def folders(folder: Path, names: str) -> str:
    for i, name in enumerate("vwxyz"):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / f"{i}.png").write_bytes(good(i)["png"])
    (folder / "names.txt").write_text("\n".join(names))
    return f"{folder}/images"


def parquet(folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [good(i)["png"] for i in range(3)], "label": [7, 8, 9]}), folder / "a.parquet")
    return f"{folder}/a.parquet"


NOTHING = {
    "-1": (lambda here: tarred(here, "cls", ["-1"] * 4), {}, ["4 images", "label -1 is outside 0 ... 4"]),
    "beyond": (parquet, {}, ["3 images", "label 7 is outside 0 ... 4"]),
    "captions": (lambda here: tarred(here, "txt", ["a dog", "a cat on a mat"]), {}, ["2 images", "'a dog' is a name"]),
    "other folders": (lambda here: folders(here, "abcde"), {"classes": "names.txt"}, ["5 images", "'v' is not one of the class names"]),
    "no label": (lambda here: tarred(here, "note", ["x"]), {}, ["no image carries a label"]),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_explain_is_refused_before_the_passes_with_the_reason(tmp_path, name):
    make, flags, words = NOTHING[name]
    source, flags = make(tmp_path), {key: f"{tmp_path}/{value}" for key, value in flags.items()}
    with pytest.raises(Refusal) as refused:
        explain.run(job(source, tmp_path / "out", methods=("grad_cam",), targets=("label",), **flags))
    for word in (*words, "--targets label explains nothing", "--targets predicted"):
        assert word in str(refused.value)
    assert not (tmp_path / "out" / "tasks").exists()
    assert explain.run(job(source, tmp_path / "out", methods=("grad_cam",), targets=("predicted",), **flags)).counts["explained"]


@pytest.mark.parametrize("labels", [["-1", "-1", "3"], ["4", "77"]], ids=str)
def test_one_usable_label_is_enough(tmp_path, labels):
    outcome = explain.run(job(tarred(tmp_path, "cls", labels), tmp_path / "out", methods=("grad_cam",), targets=("label",)))
    assert (outcome.counts["explained"], outcome.counts["failed"]) == (1, len(labels) - 1)


# --- a worker without a share of the first batch


class Recorded(Team):
    """One of two workers, whose partner is only imagined; records what it waits for."""

    def __init__(self, calls: list, rank: int):
        super().__init__(rank, 2, rank, 2)
        object.__setattr__(self, "calls", calls)

    def add(self, values):
        self.calls.append("add")
        return values.add_(1)  # the partner has seen the image

    def wait(self):
        self.calls.append("wait")


@pytest.mark.parametrize("rank", [0, 1])
def test_every_worker_comes_to_the_barrier_of_the_features_before_it_adds_gradients(tmp_path, rank):
    from pipeline.train.check import check_training
    from pipeline.train.data import load_images
    from pipeline.train.job import Training

    source = dataset(tmp_path / "shards", shards=1, images=1)
    asked = Training(
        source=(source,), backbone="timm/test_resnet", backbone_args=("pretrained=false",), classes="5", image_size=64, freeze="trunk",
        epochs=1, val_share=0.0, out=str(tmp_path / "out"), cache=str(tmp_path / "cache"),
    )  # fmt: skip
    checked, calls = check_training(asked), []
    images = load_images(checked.image_spec, asked.cache, Team())
    if rank:
        _ = Learner(checked, images, Team(), torch.device("cpu")).features  # as the first worker of the machine fills them
    LearningRateTrial(Learner(checked, images, Recorded(calls, rank), torch.device("cpu")), 0.1, None).run_epoch(0)
    assert calls[0] == "wait" and calls.count("wait") == 1
