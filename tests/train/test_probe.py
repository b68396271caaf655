"""Linear probes: from shards to a classifier that explain uses, the two solvers against scikit-learn and torch, and what is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

from jobs import explain, pack
from jobs import probe as job
from pipeline import tables
from pipeline.backbones import linear_probe, load
from pipeline.refusal import Refusal
from pipeline.spec.job import Job
from pipeline.train.probe import solvers
from pipeline.train.probe.accuracy import measure
from pipeline.train.probe.features import Features
from pipeline.train.probe.job import ProbeJob
from pipeline.train.probe.solvers import NEVER, accuracy, adam, lbfgs
from tests import layouts, tiny
from tests.conditioning import UNIT, UNIT16, agree, near
from tests.shards import encoded, tar_bytes

CLASSES, WIDTH = 4, 6
SIZE = 64
VIT = {"backbone": "timm/test_vit", "backbone_args": ("pretrained=false",), "image_size": SIZE, "workers": 0}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory):
    tiny.clip(tmp_path_factory.mktemp("configs"), "probed-vit")


def clouds(count: int, seed: int, classes: int = CLASSES) -> Features:
    """Points about one centre a class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32)
    centres = np.random.default_rng(0).normal(size=(classes, WIDTH))
    return Features((centres[labels] + 0.7 * rng.normal(size=(count, WIDTH))).astype(np.float16), labels)


def test_lbfgs_is_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    data = clouds(300, 1)
    ours = lbfgs([data], CLASSES, l2=2.0, tolerance=1e-9)
    theirs = LogisticRegression(C=0.5, tol=1e-10, max_iter=5000).fit(data.x.astype(np.float64), data.labels)
    same_minimum(data, 2.0, ours, torch.from_numpy(np.column_stack([theirs.coef_, theirs.intercept_])))


def same_minimum(data, l2, ours, theirs):
    """Both [C D + 1] are as near the one minimum of the formula as a strictly convex function's gradient says: |x - x*| <= |gradient| / curvature."""
    x, labels = (torch.from_numpy(value) for value in (data.x.astype(np.float64), data.labels.astype(np.int64)))
    ours = torch.cat([ours.weight, ours.bias[:, None]], 1).double() if not torch.is_tensor(ours) else ours

    def loss(theta):
        theta = theta.view(CLASSES, WIDTH + 1)
        return F.cross_entropy(x @ theta[:, :-1].T + theta[:, -1], labels) + l2 / (2 * len(x)) * theta[:, :-1].square().sum()

    curvatures = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theirs.flatten()))
    gradients = [torch.autograd.functional.jacobian(loss, each.flatten()).norm() for each in (ours, theirs)]
    stored = curvatures[-1] * UNIT * ours.norm()  # what rounding the minimum to single precision leaves of a gradient
    assert max(gradients) <= 1e-9 * theirs.numel() ** 0.5 + stored, "both have converged"
    # all biases may move together: the one direction without a curvature, in which neither has moved
    assert curvatures[0].abs() < 1e-12 < curvatures[1] and ours[:, -1].sum().abs() <= UNIT * ours[:, -1].abs().sum()
    assert (ours - theirs).norm() <= sum(gradients) / curvatures[1] + UNIT * ours.norm()


def test_lbfgs_of_two_parts_is_that_of_both_together():
    data = clouds(200, 2)
    parts = [Features(data.x[rows], data.labels[rows]) for rows in (slice(0, 70), slice(70, None))]
    parted, whole = (lbfgs(each, CLASSES, tolerance=1e-9) for each in (parts, [data]))
    same_minimum(data, 1.0, parted, torch.cat([whole.weight, whole.bias[:, None]], 1).double())


def test_a_class_without_images_is_never_predicted():
    data = clouds(100, 3)
    shifted = Features(data.x, data.labels + (data.labels >= 2))  # class 2 of five is empty
    found = lbfgs([shifted], CLASSES + 1)
    assert found.bias[2] == NEVER and not found.weight[2].any()
    assert torch.equal(found.weight[[0, 1, 3, 4]], lbfgs([data], CLASSES).weight), "the same sums"


def test_adam_is_torchs_own_loop_and_keeps_the_best_epoch():
    train, val = clouds(100, 4), clouds(40, 5)
    told = []
    found, right = adam(train, val, CLASSES, lr=0.05, epochs=6, batch=32, seed=7, report=lambda *epoch: told.append(epoch))
    best = max(told, key=lambda pair: (pair[1], -pair[0]))
    assert [epoch for epoch, _ in told] == [1, 2, 3, 4, 5, 6]
    assert (found.step, right) == best
    assert right == accuracy(found, val)
    layer = torch.nn.Linear(WIDTH, CLASSES)
    rng = torch.Generator().manual_seed(7)
    for value in (layer.weight, layer.bias):
        torch.nn.init.uniform_(value, -(WIDTH**-0.5), WIDTH**-0.5, generator=rng)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    for epoch in range(1, found.step + 1):
        order = np.random.default_rng([7, epoch]).permutation(100)
        for start in range(0, 100, 32):
            rows = np.sort(order[start : start + 32])
            x, labels = torch.from_numpy(train.x[rows].astype(np.float32)), torch.from_numpy(train.labels[rows].astype(np.int64))
            optimiser.zero_grad()
            F.cross_entropy(layer(x), labels).backward()
            optimiser.step()
    assert torch.equal(found.weight, layer.weight.detach()), "the same sums"


def test_settings_that_cannot_be_are_refused():
    given = {"train": ("a.tar",), "classes": "c.txt", "backbone": "timm/test_vit", "out": "out"}
    for wrong, told in [
        ({"epochs": 0}, "--epochs"),
        ({"lr": (0.0,)}, "--lr"),
        ({"held_out": 1.0}, "--held-out"),
        ({"held_out": 0.0}, "--val"),
        ({"pools": ("token", "token")}, "--pools"),
        ({"pools": ("", "avg")}, "--pools"),
    ]:
        with pytest.raises(Refusal, match=told):
            ProbeJob(**given, **wrong)


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """Shards of images of one colour a class, which any network's features tell apart; and the file of class names."""
    root, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    colours = [(230, 30, 30), (30, 230, 30), (30, 30, 230)]
    for split, count in (("train", 30), ("test", 12)):
        samples = []
        for i in range(count):
            image = np.clip(np.full((SIZE, SIZE, 3), colours[i % 3]) + rng.integers(-25, 26, (SIZE, SIZE, 3)), 0, 255)
            members = {"png": encoded(Image.fromarray(image.astype(np.uint8))), "cls": str(i % 3).encode()}
            samples.append((f"{split}{i:04}", members))
        (root / f"{split}.tar").write_bytes(tar_bytes(samples))
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root


def job_of(bands, out, **how) -> ProbeJob:
    given = {"train": (f"{bands}/train.tar",), "test": (f"{bands}/test.tar",), "classes": f"{bands}/classes.txt", "out": str(out)}
    return ProbeJob(**{**given, **VIT, "held_out": 0.3, "epochs": 3, **how})


@pytest.fixture(scope="module")
def trained(bands, tmp_path_factory):
    out = tmp_path_factory.mktemp("atlas")
    return out, job.run(job_of(bands, out, pools=("token", "avg")))


def test_the_screen_has_a_line_an_epoch_or_its_event(bands, tmp_path, capsys):
    for log in ("text", "json"):
        job.run(job_of(bands, tmp_path / log, epochs=1, log=log))
    lines = capsys.readouterr().err.splitlines()
    assert any("own pooling, adam 0.0003: epoch 1 of 1, top-1 on val " in line for line in lines)
    shown = [json.loads(line) for line in lines if line.startswith("{")]
    assert [event["event"] for event in shown[-2:]] == ["epoch", "solved"]
    assert 0 <= shown[-2]["val_accuracy"] <= 1 and shown[-1]["iterations"] > 0


def test_probes_of_every_pooling_and_solver_are_written_with_their_accuracy(trained):
    out, rows = trained
    names = {"token-adam", "token-lbfgs", "avg-adam", "avg-lbfgs"}
    assert {row["probe"] for row in rows} == names
    assert {path.stem for path in (out / "probes" / "probe").glob("*.safetensors")} == names
    assert pq.read_table(out / "probes" / "probe" / "accuracy.parquet").to_pylist() == rows
    for name in names:
        mine = [row for row in rows if row["probe"] == name and row["split"] == "test"]
        whole, classes = mine[0], mine[1:]
        assert [row["class_name"] for row in classes] == ["red", "green", "blue"]
        assert whole["n"] == sum(row["n"] for row in classes) == 12
        assert whole["top1"] == near(np.mean([row["top1"] for row in classes]), 4) and whole["top5"] == 1
        if name.endswith("lbfgs"):
            assert whole["top1"] == 1
        for row in mine:
            ends = binomtest(round(row["top1"] * row["n"]), row["n"]).proportion_ci(0.95, "exact")
            assert (row["top1_low"], row["top1_high"]) == tuple(pytest.approx(end, abs=2e-12) for end in ends)


def test_features_are_computed_once(trained, bands):
    out, _ = trained
    passes = tables.open(str(out), "probe-token-avg").manifest["passes"]
    assert passes["look"]["forwards"] == 42, "one pass of each image serves both poolings"
    before = sorted(path.name for path in (out / "runs").iterdir())
    again = job.run(job_of(bands, out, pools=("token", "avg"), solvers=("lbfgs",), l2=(0.5, 5.0)))
    assert sorted(path.name for path in (out / "runs").iterdir()) == before
    assert len({row["probe"] for row in again}) == 2


def explained(bands, out, probe, **how):
    given = {"source": (f"{bands}/test.tar",), "methods": ("grad_cam",), "targets": ("label", "finer"), "target_args": ("finer.T=2",)}
    done = explain.run(Job(**{**given, **VIT, "out": str(out / "explained"), "probe": str(probe), "name": probe.stem, **how}))
    return done, tables.open(str(out / "explained"), probe.stem)


def whole(global_pool: str) -> torch.nn.Module:
    """A network of one's own, in one piece."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network.num_classes = 0
    return network


@pytest.mark.parametrize(
    ("name", "args", "key", "pools"),
    [
        ("timm/test_vit", {"num_classes": "0"}, "global_pool", ("token", "avg", "max")),
        ("timm/vit_small_patch14_reg4_dinov2", {"num_classes": "0", "depth": "2"}, "global_pool", ("avg", "token")),
        ("timm/test_resnet", {"num_classes": "0"}, "global_pool", ("avg", "max")),
        ("open_clip/probed-vit/none", {}, "pool", ("tok", "avg")),
    ],
)
def test_poolings_side_by_side_are_each_on_its_own(name, args, key, pools):
    def loaded(pool: str):
        return load(name, args={**args, "pretrained": "false", key: pool}, image_size=56 if "14" in name else SIZE)

    together, each = loaded(",".join(pools)), [loaded(pool) for pool in pools]
    x = together.prepare(torch.randint(0, 256, (2, 3, *together.image_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    agree(
        lambda together, x, *each: together.logits(x),
        (together, x, *each),
        lambda together, x, *each: torch.cat([one.logits(x) for one in each], 1),
    )
    assert together.feature_width == sum(one.feature_width for one in each)
    for pool, one in zip(pools, each, strict=True):
        assert linear_probe.trunk_of(together.origin, name, pool) == one.origin
    assert len({together.identity, *(one.identity for one in each)}) == 1 + len(each)


@pytest.mark.parametrize(
    ("name", "args", "told"),
    [
        ("timm/test_vit", {"pretrained": "false", "num_classes": "3", "global_pool": "token,avg"}, "have no classes"),
        ("timm/test_vit", {"pretrained": "false", "num_classes": "0", "global_pool": "token,map"}, "other weights when it pools by map"),
        ("tests.train.test_probe:whole", {"global_pool": "token,avg"}, "does not part its features"),
    ],
)
def test_poolings_that_cannot_be_had_at_once_are_refused(name, args, told):
    with pytest.raises(Refusal, match=told):
        load(name, args=args, image_size=SIZE)


@pytest.mark.parametrize("name", ["token-lbfgs", "avg-lbfgs"])
def test_explain_uses_a_probe_as_the_classifier(trained, bands, name):
    out, rows = trained
    done, run = explained(bands, out, out / "probes" / "probe" / f"{name}.safetensors")
    assert done.complete
    assert run.sql("SELECT avg((label = predicted)::INT) AS right FROM predictions").to_pylist() == [{"right": 1.0}]
    assert run.sql("SELECT DISTINCT label_name FROM images ORDER BY 1").to_pylist() == [{"label_name": c} for c in ("blue", "green", "red")]
    assert run.sql("SELECT count(*) AS n FROM maps").to_pylist() == [{"n": 24}]
    probe = linear_probe.read(str(out / "probes" / "probe" / f"{name}.safetensors"))
    logits = np.array(run.sql("SELECT logits FROM predictions ORDER BY image_id").to_pydict()["logits"])
    features = tables.open(str(out), "probe-token-avg").sql("SELECT feature FROM features WHERE image_id LIKE '%test%' ORDER BY image_id")
    both = np.array(features.to_pydict()["feature"], np.float32)
    mine = np.split(both, 2, 1)[probe.pool == "avg"]
    weight, bias = probe.weight.double().numpy(), probe.bias.double().numpy()
    # features and logits are each rounded to half precision once
    size = np.abs(mine) @ np.abs(weight).T + np.abs(bias)
    assert (np.abs(logits - (mine @ weight.T + bias)) <= 2 * UNIT16 * size).all()


def test_layers_keep_their_names_under_a_probe(trained):
    out, _ = trained
    probe = str(out / "probes" / "probe" / "token-lbfgs.safetensors")
    backbone = load("timm/test_vit", args={"pretrained": "false"}, image_size=SIZE, probe=probe, layer="blocks.2.norm1")
    assert (backbone.layer, backbone.num_classes, backbone.classes) == ("blocks.2.norm1", 3, ("red", "green", "blue"))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"backbone": "timm/test_vit2"}, "network was test_vit, is test_vit2"),
        ({"seed": 1}, "weights was"),
        ({"image_size": 96}, "size was"),
        ({"backbone_args": ("pretrained=false", "mean=0.1,0.1,0.1")}, "mean was"),
        ({"backbone": "timm/test_resnet"}, "another network"),
    ],
)
def test_a_probe_of_another_network_is_refused_with_the_difference(trained, bands, how, told):
    out, _ = trained
    with pytest.raises(Refusal, match=told):
        explained(bands, out, out / "probes" / "probe" / "token-lbfgs.safetensors", **how)


def test_what_is_no_probe_is_refused(trained, bands, tmp_path):
    out, _ = trained
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name, told in (("absent", "there is no probe"), ("text", "no safetensors file"), ("other", "no linear probe")):
        with pytest.raises(Refusal, match=told):
            explained(bands, out, tmp_path / f"{name}.safetensors")


def test_a_probe_on_a_convolutional_network(bands, tmp_path):
    job.run(job_of(bands, tmp_path, backbone="timm/test_resnet", solvers=("lbfgs",)))
    probe = tmp_path / "probes" / "probe" / "own-lbfgs.safetensors"
    assert set(load_file(probe)) == {"weight", "bias"}
    done, run = explained(bands, tmp_path, probe, backbone="timm/test_resnet", methods=("cam", "grad_cam"))
    assert done.complete
    assert run.manifest["backbone"]["num_classes"] == 3
    assert "jpg" not in json.dumps(run.manifest["backbone"])


def test_training_holds_a_few_rows_at_a_time(tmp_path, monkeypatch):
    data, held = clouds(500, 6), []
    data.x.tofile(tmp_path / "x")
    both = Features(np.memmap(tmp_path / "x", np.float16, "r").reshape(-1, WIDTH), data.labels)
    mine = both.columns(slice(1, 4))
    assert np.shares_memory(mine.x, both.x) and isinstance(mine.x, np.memmap), "a pooling's columns stay on disk"
    counted = solvers._tensor
    monkeypatch.setattr(solvers, "ROWS", 64)
    monkeypatch.setattr(solvers, "_tensor", lambda x: held.append(len(x)) or counted(x))
    adam(mine, mine, CLASSES, epochs=1, batch=32)
    found = lbfgs([mine, mine], CLASSES)
    assert measure("", "", found, {"test": mine}, [""] * CLASSES)[0]["n"] == 500
    assert max(held) == 64 and len(held) > 24


def test_from_a_dataset_to_a_published_run_in_three_commands(tmp_path):
    layouts.cub(tmp_path / "CUB_200_2011")
    packed, atlas = tmp_path / "packed", tmp_path / "atlas"
    network = ["--backbone", "timm/test_vit", "--backbone-args", "pretrained=false", "--image-size", "64", "--workers", "0"]
    names = ["--classes", str(packed / "classes.txt"), "--out", str(atlas)]
    splits = ["--train", f"{packed}/train-*.tar", "--val", f"{packed}/test-*.tar"]
    assert pack.main(["--root", str(tmp_path / "CUB_200_2011"), "--out", str(packed), "--workers", "0"]) == 0
    assert job.main([*splits, *network, *names, "--pools", "token", "avg", "--epochs", "2"]) == 0
    asked = ["--methods", "grad_cam", "--targets", "label", "finer(T=1)", "--metrics", "energy", "rd"]
    probe = ["--probe", str(atlas / "probes" / "probe" / "avg-lbfgs.safetensors"), "--name", "explained"]
    assert explain.main(["--source", f"{packed}/test-*.tar", *network, *names, *asked, *probe]) == 0
    rows = tables.open(str(atlas), "explained").sql(
        "SELECT target, n FROM summary WHERE metric = 'energy' AND method = 'grad_cam' AND scope = 'all'"
    )
    assert sorted(row["target"] for row in rows.to_pylist()) == ["finer", "label"]


CLIP = {"backbone": "open_clip/probed-vit/none", "backbone_args": ()}


@pytest.fixture(scope="module")
def clip(bands, tmp_path_factory):
    """Probes on an open_clip network with random weights, from one pass of each image."""
    out = tmp_path_factory.mktemp("clip")
    rows = job.run(job_of(bands, out, pools=("tok", "avg"), solvers=("lbfgs",), **CLIP))
    assert tables.open(str(out), "probe-tok-avg").manifest["passes"]["look"]["forwards"] == 42
    return out, rows


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_a_probe_on_open_clip_explains_classes_and_phrases(clip, bands, pool):
    out, rows = clip
    path = out / "probes" / "probe" / f"{pool}-lbfgs.safetensors"
    right = next(row["top1"] for row in rows if (row["pool"], row["split"], row["class_id"]) == (pool, "test", None))
    alone, plain = explained(bands, out, path, targets=("label",), target_args=(), **CLIP)
    done, run = explained(
        bands, out, path, targets=("label", "finer(T=2)", "text_contrast:a red bird|a bird"), target_args=(), metrics=("ad",), **CLIP
    )
    assert alone.complete and done.complete
    answer = "SELECT image_id, predicted, top5, logits FROM predictions ORDER BY image_id"
    assert run.sql(answer) == plain.sql(answer), "phrases touch no class"
    assert run.sql("SELECT avg((label = predicted)::INT) AS right FROM predictions").to_pylist() == [{"right": right}]
    counted = run.sql("SELECT target, count(*) AS n, count(class_id) AS classed FROM maps WHERE method = 'grad_cam' GROUP BY 1 ORDER BY 1")
    assert counted.to_pylist() == [
        {"target": "finer", "n": 12, "classed": 12},
        {"target": "label", "n": 12, "classed": 12},
        {"target": "text_contrast:a red bird|a bird", "n": 12, "classed": 0},
    ]


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_a_probes_weights_are_the_classes_of_open_clip_beside_phrases(clip, pool):
    path = clip[0] / "probes" / "probe" / f"{pool}-lbfgs.safetensors"
    probe, how = linear_probe.read(str(path)), {"image_size": SIZE, "probe": str(path)}
    beside, texts = (
        load(CLIP["backbone"], phrases=(("a bird", ()),), **each) for each in (how, {"image_size": SIZE, "args": {"pool": pool}})
    )
    x = beside.prepare(torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    weight, bias = probe.weight.double(), probe.bias.double()
    agree(lambda beside, x: beside.logits(x)[:, :3], (beside, x), lambda beside, x: beside.readout(*beside.trunk(x))[1] @ weight.T + bias)
    agree(lambda beside, x, texts: beside.logits(x)[:, 3:], (beside, x, texts), lambda beside, x, texts: texts.logits(x))
    assert torch.equal(beside.class_weights(), probe.weight) and beside.num_classes == 3


def test_classes_and_splits_that_do_not_fit_are_refused(bands, tmp_path):
    with pytest.raises(Refusal, match="is in two splits"):
        job.run(job_of(bands, tmp_path, test=(f"{bands}/train.tar",)))
    (tmp_path / "four.txt").write_text("red\ngreen\nblue\nviolet\n")
    with pytest.raises(Refusal, match="1 of 4 classes have no training image .violet"):
        job.run(job_of(bands, tmp_path, classes=str(tmp_path / "four.txt")))
    kept = job.run(job_of(bands, tmp_path, classes=str(tmp_path / "four.txt"), keep_empty=True, solvers=("lbfgs",)))
    assert next(row for row in kept if row["split"] == "test" and row["class_name"] == "violet")["n"] == 0
