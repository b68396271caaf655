"""Numbers that are not numbers: what overflows, is NaN or is nothing but rounding is an error, a refusal or constant, and never a value."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import pipeline
from jobs import probe as probe_job
from pipeline import tables
from pipeline.backbones import linear_probe
from pipeline.backbones.similarity import classifier
from pipeline.classes import attributes
from pipeline.engine import misfit
from pipeline.engine.runners.masked import _settle
from pipeline.families import METRICS, masked, metric
from pipeline.maps.quantise import stored
from pipeline.maps.render import unit
from pipeline.methods import METHODS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.train.learner import _right
from pipeline.train.probe.accuracy import measure
from pipeline.train.probe.features import Features, collect_features
from pipeline.train.probe.job import ProbeJob
from pipeline.train.probe.solvers import Diverged, Linear, accuracy, adam, lbfgs, ranks
from tests import tiny
from tests.entries import cheap
from tests.shards import encoded, picture, tar_bytes

SIDE = 32
HERE = "tests.test_numbers"


def brightness(feature: float = 1.0, logit: float = 1.0, num_classes: int = 3) -> nn.Module:
    """A network of two features, `feature` times the mean of red and of green, and of logits that are `logit` times their sums."""
    conv, linear = nn.Conv2d(3, 2, 4, 4, bias=False), nn.Linear(2, max(num_classes, 1), bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0], conv.weight[1, 1] = feature / 16, feature / 16
        linear.weight.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0], [-1.0, 0.25]])[: len(linear.weight)] * logit / feature)
    parts = [conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*parts, *([linear] if num_classes else []))
    network.num_classes = num_classes
    return network


def network(**args) -> pipeline.Network:
    plain = {"mean": "0,0,0", "std": "1,1,1"}
    return pipeline.Network(f"{HERE}:brightness", args=tuple({**plain, **{k: str(v) for k, v in args.items()}}.items()), image_size=SIDE)


def shades(*levels: int) -> np.ndarray:
    """Images of one grey each, but for a darker corner."""
    images = np.stack([np.full((3, SIDE, SIDE), level, np.uint8) for level in levels])
    images[:, :, :8, :8] //= 2
    return images


def numbers(table: pa.Table):
    """Every floating number of a table, whatever it is nested in."""

    def flat(value):
        if isinstance(value, float | np.floating):
            yield float(value)
        elif isinstance(value, dict):
            yield from (number for inner in value.values() for number in flat(inner))
        elif isinstance(value, list | tuple):
            yield from (number for inner in value for number in flat(inner))

    for row in table.to_pylist():
        yield from flat(row)


def finite(found: dict[str, pa.Table]) -> bool:
    return all(math.isfinite(number) for table in found.values() for number in numbers(table))


# float16


@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ({"feature": 1e5}, {"features"}),
        ({"feature": 68500.0}, {"features"}),  # a bright image has a mean of .969
        ({"logit": 1e5}, {"logits"}),
        ({"logit": -1e5}, {"logits"}),
        ({"feature": 1e6, "logit": 1e6}, {"features", "logits"}),
        ({"feature": 65000.0, "logit": 6e4 / 1.5}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "-".join(sorted(value)) or "nothing",
)
def test_what_half_precision_does_not_hold_is_an_error_of_its_image(how, lost):
    settings = {"methods": ["grad_cam"], "metrics": ["complexity"]}
    images, keys = shades(255, 3), ["bright", "dark"]
    explained = pipeline.explain(images, [0, 0], network(**how), keys=keys, **settings)
    table_of = {"features": "features", "logits": "predictions"}
    for name, table in table_of.items():
        assert explained[table]["image_id"].to_pylist() == (["dark"] if name in lost else keys)
    errors = [(row["image_id"], row["stage"], row["error"]) for row in explained["errors"].to_pylist()]
    assert errors == [("bright", "predict", "TooLarge")] * len(lost)
    assert all(f"--no-store {name}" in " ".join(explained["errors"]["message"].to_pylist()) for name in lost)
    assert len(explained["maps"]) == 6 and finite(explained), "the map is that of the numbers as they came"
    without = pipeline.explain(images, [0, 0], network(**how), keys=keys, no_store=tuple(lost), **settings)
    assert not len(without["errors"]) and len(without["predictions"]) == 2
    plain = pipeline.explain(images, [0, 0], network(logit=np.sign(how.get("logit", 1))), keys=keys, **settings)
    assert [row["map"] for row in without["maps"].to_pylist()] == [row["map"] for row in plain["maps"].to_pylist()]


# Maps and scores


@pytest.fixture
def extremes():
    """A method whose finite maps have no finite range, and metrics whose values single precision, or a sum, does not hold."""

    @masked({}, fill=None)
    def cliffs(A):
        rows = torch.linspace(-3.3e38, 3.3e38, A.shape[2])[:, None]
        return rows.expand(len(A), *A.shape[2:]).clone()

    @metric
    def astronomic(S):
        return 1e39

    @metric(corpus_level=lambda hits, n: hits[0] / n)
    def uncountable(S):
        return {"hits": np.array([np.nan if S[0, 0] else 1.0])}

    yield
    for registry, name in ((METHODS, "cliffs"), (METRICS, "astronomic"), (METRICS, "uncountable")):
        del registry[name]


def test_a_map_without_a_finite_range_and_a_score_without_a_finite_value_are_no_values(extremes):
    images = shades(200, 100)
    images[0, :, :8, :8] = 255
    settings = {"methods": ["cliffs", "grad_cam"], "metrics": ["astronomic", "uncountable", "complexity"]}
    explained = pipeline.explain(images, [0, 0], network(), **settings)
    assert finite(explained)
    assert {(row["stage"], row["error"]) for row in explained["errors"].to_pylist()} == {("map", "NotFinite")}
    assert "cliffs" not in explained["maps"]["method"].to_pylist()
    rows = {(row["method"], row["image_id"]): row for row in explained["metrics"].to_pylist()}
    reasons = dict(rows["grad_cam", "00000000"]["reasons"])
    assert reasons["astronomic"] == "the metric is not finite" and rows["grad_cam", "00000000"]["complexity"] is not None
    [whole] = [row for row in explained["summary"].to_pylist() if (row["metric"], row["method"]) == ("uncountable", "grad_cam")]
    assert (whole["n"], whole["n_null"], whole["mean"]) == (1, 1, 1.0), "one image without a count leaves the others theirs"


# Rounding


def dull(kind: str, curved: bool = False) -> nn.Module:
    """Networks whose answer does not depend on the image, but for rounding."""
    network = tiny.build(curved=curved)
    with torch.no_grad():
        if kind == "deaf":  # features that no class listens to
            network[-1].weight.zero_()
        elif kind == "dead":  # no unit of the last layer ever fires
            network[4].bias.fill_(-1e3)
        elif kind == "zero":
            for parameter in network.parameters():
                parameter.zero_()
        elif kind == "undecided":  # all logits move alike, so that of the probabilities nothing but rounding does
            network[-1].weight.copy_(5 * network[-1].weight[:1].expand_as(network[-1].weight))
            network[-1].bias.copy_(0.3 * torch.arange(5))
    return network


def deaf_transformer(num_classes: int = 5) -> nn.Module:
    """Its channels behind the last norm add up to nothing, so that a uniform weighting of them is rounding."""
    import timm

    network = timm.create_model("test_vit", num_classes=num_classes, img_size=SIDE)
    torch.nn.init.zeros_(network.head.weight)
    return network


CLASS_FREE = {"eigen_cam", "fake_cam", "random", "raw_attention", "rollout"}
DRAWN = {"rise", "rglas"}  # what their formulas give where all scores are one: the density of the masks, a drawing of equal spots
MEANS = {"score_cam"}  # the mean of all channels
OF_LOGITS = {method for method in METHODS if METHODS[method].family in ("cam", "path", "attention")} | {
    "ablation_cam",
    "score_cam",
    "opti_cam",
    "extremal",
}


@pytest.mark.parametrize(
    ("written", "alive"),
    [
        ((HERE, "dull", ("kind", "deaf")), MEANS),
        ((HERE, "dull", ("kind", "deaf"), ("curved", "true")), MEANS),
        ((HERE, "dull", ("kind", "dead")), {"deconvnet"}),  # its rule does not ask whether a unit fired
        ((HERE, "dull", ("kind", "dead"), ("curved", "true")), {"deconvnet"}),
        ((HERE, "dull", ("kind", "zero")), set()),
        ((HERE, "dull", ("kind", "undecided")), OF_LOGITS),
        ((HERE, "dull", ("kind", "undecided"), ("curved", "true")), OF_LOGITS),
        ((HERE, "deaf_transformer"), set()),
    ],
    ids=lambda value: "-".join(str(part[1] if isinstance(part, tuple) else part) for part in value[1:]) if isinstance(value, tuple) else "",
)
def test_where_the_answer_is_constant_no_method_makes_a_map_of_its_rounding(written, alive):
    module, function, *args = written
    backbone = pipeline.Network(f"{module}:{function}", args=tuple(args), image_size=SIDE).load()
    images = np.stack([np.asarray(picture(seed, SIDE)).transpose(2, 0, 1) for seed in range(2)])
    methods = [cheap(name) for name in METHODS if not misfit(parse(cheap(name), METHODS, "method"), backbone)]
    for target in ("label", "second"):
        for size in (1, 2):
            rows = pipeline.explain(images, [0, 3], backbone, methods, [target], batch_size=size)["maps"].to_pylist()
            live = {row["method"] for row in rows if unit(stored(row)).any()}
            assert live <= CLASS_FREE | DRAWN | alive
            assert {row["method"] for row in rows} >= {"lime", "occlusion", "glas", "mask", "score_cam"}


def test_scores_that_differ_by_more_than_rounding_stay_as_they_are():
    scores = torch.tensor(
        [[0.5, 0.5 + 1e-7, 0.5 - 1e-7], [0.5, 0.5 + 1e-5, 0.5], [1e-30, 2e-30, 1e-30], [0.5, 0.5, torch.nan], [0.5, 0.5, 0.1]]
    )
    settled = scores.clone()
    _settle(settled, None, None)
    assert settled[0].unique().numel() == 1 and (settled[0] - 0.5).abs().max() < 2e-7
    torch.testing.assert_close(settled[1:], scores[1:], rtol=0, atol=0, equal_nan=True)
    wanted = torch.tensor([[True, True, False]] * 5)
    _settle(alike := scores.clone(), wanted, torch.full((5,), 0.5))
    assert alike[0].tolist() == [0.5, 0.5, scores[0, 2]] and torch.equal(alike[1], scores[1]) and alike[4].tolist() == scores[4].tolist()


# Probes


def clouds(count: int = 60, scale: float = 1.0) -> Features:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count).astype(np.int32)
    return Features((scale * (np.eye(3)[labels] + 0.1 * rng.normal(size=(count, 3)))).astype(np.float16), labels)


@pytest.mark.parametrize("classes", [3, 4, 12])
@pytest.mark.parametrize("where", ["weight", "bias", "one class"])
def test_nan_counts_as_wrong(where, classes):
    data, weight, bias = clouds(), torch.randn(classes, 3), torch.zeros(classes)
    {"weight": weight, "bias": bias, "one class": weight[:1]}[where].fill_(torch.nan)
    linear = Linear(weight, bias, "adam", 1.0, 1)
    own_is_nan = np.ones(len(data), bool) if where != "one class" else data.labels == 0
    by_hand = np.where(own_is_nan, 0, data.labels < 0)  # one NaN is ahead of every number
    assert accuracy(linear, data) == by_hand.mean() == 0
    rows = measure("", "", linear, {"val": data}, [""] * classes)
    assert rows[0]["top1"] == 0 and rows[1]["top5"] == 0, "of class 0, whose logit is NaN"
    logits = linear.logits(torch.from_numpy(data.x.astype(np.float32)))
    assert _right(logits, torch.from_numpy(data.labels.astype(np.int64))) == 0


def test_ranks_are_those_of_a_stable_sort():
    logits = torch.randint(0, 3, (200, 7), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(200) % 7
    order = torch.sort(logits, dim=1, descending=True, stable=True).indices
    assert torch.equal(ranks(logits, labels), (order == labels[:, None]).int().argmax(1))


@pytest.mark.parametrize(
    ("solve", "told"),
    [
        (lambda data: adam(data, data, 3, lr=1e38, epochs=2), "--lr 1e\\+38"),
        (lambda data: adam(Features(np.full_like(data.x, np.inf), data.labels), data, 3), "--lr"),
        (lambda data: lbfgs([Features(np.full_like(data.x, np.nan), data.labels)], 3), "--l2 1"),
        (lambda data: lbfgs([Features(np.full_like(data.x, np.inf), data.labels)], 3, l2=5.0), "--l2 5"),
    ],
)
def test_a_solver_that_diverges_is_refused(solve, told):
    with pytest.raises(Diverged, match=told):
        solve(clouds())


def test_an_epoch_without_numbers_is_the_last_and_the_best_before_it_stays():
    told, data = [], clouds(scale=1e4)
    steps = iter(range(100))

    class Breaking(Features):
        def __len__(self):
            if next(steps) > 40:
                self.x[:] = np.inf
            return len(self.labels)

    best, top1 = adam(Breaking(data.x.copy(), data.labels), data, 3, epochs=50, report=lambda *epoch: told.append(epoch))
    assert best.finite and 0 < best.step <= len(told) < 50 and top1 == max(accuracy for _, accuracy in told)


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """Shards of red and of green images, each class with bright ones, and the file of class names."""
    root = tmp_path_factory.mktemp("greys")
    for split, count in (("train", 24), ("test", 8)):
        samples = []
        for i in range(count):
            level = 250 if i % 8 < 2 else 20 + i
            colour = (level, 0, 9) if i % 2 else (0, level, 9)
            samples.append((f"{split}{i:02}", {"png": encoded(Image.new("RGB", (SIDE, SIDE), colour)), "cls": b"%d" % (i % 2)}))
        (root / f"{split}.tar").write_bytes(tar_bytes(samples))
    (root / "classes.txt").write_text("green\nred\n")
    return root


def probing(greys, out, feature: float, **how) -> ProbeJob:
    args = ("mean=0,0,0", "std=1,1,1", f"feature={feature}")
    given = {"train": (f"{greys}/train.tar",), "test": (f"{greys}/test.tar",), "classes": f"{greys}/classes.txt", "out": str(out)}
    given |= {"backbone": f"{HERE}:brightness", "backbone_args": args, "image_size": SIDE, "workers": 0, "held_out": 0.3, "epochs": 2}
    return ProbeJob(**{**given, **how})


def test_a_probe_of_features_that_overflow_is_trained_on_those_that_do_not(greys, tmp_path):
    rows = probe_job.run(probing(greys, tmp_path, feature=1e5))
    assert {row["n"] for row in rows if row["class_id"] is None and row["split"] == "test"} == {6}, "two of eight are too bright"
    run = tables.open(str(tmp_path), "probe")
    failed = [row["image_id"] for row in run.table("errors").to_pylist() if row["error"] == "TooLarge"]
    assert len(failed) == 8 and not set(failed) & set(run.table("features")["image_id"].to_pylist())
    for path in (tmp_path / "probes" / "probe").glob("*.safetensors"):
        probe = linear_probe.read(str(path))
        assert probe.weight.isfinite().all() and probe.bias.isfinite().all()
    with pytest.raises(Refusal, match="no image of the train split"):
        probe_job.run(probing(greys, tmp_path / "all", feature=1e8))


def test_a_setting_at_which_the_solver_diverges_is_left_out_and_told(greys, tmp_path, capsys):
    rows = probe_job.run(probing(greys, tmp_path, 1.0, lr=(1e38, 3e-4), solvers=("adam",)))
    assert {row["setting"] for row in rows} == {3e-4}
    assert "adam diverged" in capsys.readouterr().err
    with pytest.raises(Refusal, match="adam diverged"):
        probe_job.run(probing(greys, tmp_path, 1.0, lr=(1e38,), solvers=("adam",)))


def test_infinite_features_of_an_older_run_are_refused(tmp_path):
    import duckdb

    class Old:
        run_id = "20260101"

        def dataset(self, name):
            return pa.dataset.dataset(self.features)

        def connect(self):
            connection = duckdb.connect()
            connection.register("features", self.features)
            connection.register("images", pa.table({"image_id": ["a", "b"], "shard": ["t", "t"], "label": [0, 1]}))
            return connection

    Old.features = pa.table({"image_id": ["a", "b"], "feature": pa.array([[1.0, 2.0], [np.inf, 0.0]], pa.list_(pa.float32(), 2))})
    with pytest.raises(Refusal, match="20260101 holds a feature of b"):
        collect_features(Old(), {"train": {"t"}}, tmp_path)


@pytest.mark.parametrize("odd", ["NaN", "Infinity", "1e999"])
def test_files_and_classifiers_of_other_than_numbers_are_refused(tmp_path, odd):
    (tmp_path / "attributes.json").write_text(f'{{"attributes": ["a"], "values": [[0.5], [{odd}]]}}')
    with pytest.raises(Refusal, match="no file of attributes"):
        attributes.read(str(tmp_path / "attributes.json"))
    backbone = network().load()
    assert classifier(backbone).shape == (3, 2)
    with torch.no_grad():
        backbone.class_weights()[0, 0] = float(odd)
    with pytest.raises(Refusal, match="NaN or infinity"):
        classifier(backbone)


def test_a_probe_of_nan_is_not_read(tmp_path):
    about = {key: json.dumps(value) for key, value in {"classes": ["a", "b"], "pool": "", "trunk": {}, "about": {}}.items()}
    for name, weight in (("nan", torch.full((2, 3), torch.nan)), ("inf", torch.full((2, 3), -torch.inf)), ("sound", torch.ones(2, 3))):
        save_file({"weight": weight, "bias": torch.zeros(2)}, tmp_path / name, {"form": linear_probe.FORM, **about})
    assert linear_probe.read(str(tmp_path / "sound")).weight.sum() == 6
    for name in ("nan", "inf"):
        with pytest.raises(Refusal, match="NaN or infinity"):
            linear_probe.read(str(tmp_path / name))
