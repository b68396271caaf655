"""The attribute examination against differences and maps worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import pipeline
from jobs import explain, score
from pipeline import tables
from pipeline.backbones import linear_probe, load
from pipeline.backbones.network import Network
from pipeline.maps.quantise import stored
from pipeline.plan.check import check_job
from pipeline.refusal import Refusal
from tests import tiny
from tests.conditioning import STEP, off, rounding, widened
from tests.jobs import job
from tests.shards import encoded, good, picture, tar_bytes

NAMES = ["has_wing_color::blue", "has_bill_shape::curved_(up_or_down)", "has_size::small_(5_-_9_in)", "crested", "has_eye_color::red"]
TEXTS = ["blue wing color", "curved up or down bill shape", "small 5 - 9 in size", "crested", "red eye color"]
VALUES = [[1.0, 0.2, 0.0, 0.5, 0.5], [0.1, 0.9, 0.0, 0.5, 0.4], [0.0, 0.1, 0.8, 0.5, 0.9]]
APART = {  # what a class has and its rival has not, largest difference first
    (0, 1): [(0, 0.9), (4, 0.1)],
    (0, 2): [(0, 1.0), (1, 0.1)],
    (1, 0): [(1, 0.7)],
    (1, 2): [(1, 0.8), (0, 0.1)],
    (2, 0): [(2, 0.8), (4, 0.4)],
    (2, 1): [(2, 0.8), (4, 0.5)],
}
BIRDS, LABELS = ("crow", "jay", "owl"), [0, 1, 2, 1, 0, 2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a file of attributes and a probe, beside an architecture that open_clip knows."""
    folder = tmp_path_factory.mktemp("attributes")
    tiny.clip(folder, "examined-vit")
    (folder / "attributes.json").write_text(json.dumps({"attributes": NAMES, "values": VALUES}))
    trunk = load("open_clip/examined-vit/none")
    draws = torch.Generator().manual_seed(3)
    probe = linear_probe.Probe(torch.randn(3, 24, generator=draws), torch.zeros(3), BIRDS, "", dict(trunk.origin), {})
    linear_probe.write(str(folder / "probe.safetensors"), probe)
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), 3, 64, 64), dtype=np.uint8)


def network(place, classes: str) -> Network:
    how = {"probe": str(place / "probe.safetensors")} if classes == "probe" else {"text_classes": BIRDS}
    return Network("open_clip/examined-vit/none", **how)


def examined(images, labels, network, attributes, methods=("grad_cam",), **settings) -> list[dict]:
    """Rows of the table `attributes`, with the position of their image."""
    asked = f"attributes:{attributes}({','.join(f'{name}={value}' for name, value in settings.items())})"
    found = pipeline.explain(images, labels, network, methods, [asked])["attributes"].to_pylist()
    return [{**row, "image": int(row["image_id"])} for row in sorted(found, key=lambda row: (row["image_id"], row["method"]))]


def grad_cams(backbone, images, directions):
    """Of images [B 3 H W], for a direction each [B C + P], by automatic differentiation; flat [B cells]."""
    A, rest = backbone.trunk(backbone.prepare(torch.from_numpy(images)))
    A.requires_grad_()
    (gradient,) = torch.autograd.grad((backbone.head(A, rest) * directions).sum(), A)
    return (gradient.mean((2, 3), keepdim=True) * A).sum(1).relu().flatten(1).detach()


def correlations(one, other):
    """Pearson's r of each two maps [B cells]; NaN where one is constant."""
    one, other = (each - each.mean(1, keepdim=True) for each in (one, other))
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))


@pytest.mark.parametrize("classes", ["probe", "texts"])
@pytest.mark.parametrize("gamma", [0.6, 2.0])
def test_the_maps_of_attributes_are_compared_with_those_of_the_class(classes, gamma, place, images):
    found = examined(images, LABELS, network(place, classes), place / "attributes.json", gamma=gamma)
    backbone = replace(network(place, classes), phrases=tuple((text, ()) for text in (*TEXTS, "bird"))).load()
    rows = backbone.class_weights().numpy().astype(np.float64)
    cosines = rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1)) - 3 * np.eye(3)
    rivals, one = cosines.argmax(1).tolist(), torch.eye(3 + len(TEXTS) + 1, dtype=torch.float64)
    expected = [(i, c, rivals[c], a, apart) for i, c in enumerate(LABELS) for a, apart in APART[c, rivals[c]]]
    told = [(row["image"], row["class_id"], row["rival"], TEXTS.index(row["attribute"]), round(row["difference"], 9)) for row in found]
    assert told == expected
    i, c, d, a = (list(each) for each in list(zip(*expected, strict=True))[:4])
    wide, shown = widened(backbone), one[[3 + each for each in a]] - gamma * one[-1]

    def likeness():
        maps = [grad_cams(wide, images[i], directions) for directions in (shown, one[c] - gamma * one[d], one[c])]
        return torch.cat([correlations(maps[0], other) for other in maps[1:]])

    told, (exact, far) = [row[f"like_{of}"] for of in ("finer", "label") for row in found], rounding(likeness)
    assert [each is None for each in told] == exact.isnan().tolist()
    known = ~exact.isnan()
    assert (off(torch.tensor(told, dtype=torch.float64)[known], exact[known]) <= far[known]).all() and far[known].max() < 0.01
    assert known.sum() >= len(found)


def test_several_methods_and_fewer_attributes(place, images):
    asked = {"methods": ("grad_cam", "gem(depth=1)"), "top": 1}
    found = examined(images, LABELS, network(place, "probe"), place / "attributes.json", **asked)
    assert len(found) == 2 * len(LABELS)
    assert {row["method"] for row in found} == {"grad_cam", "gem"}


@pytest.mark.parametrize(
    ("content", "labels", "told"),
    [
        (None, LABELS, "no file of attributes"),
        ("[]", LABELS, "is no file of attributes"),
        ({"attributes": NAMES, "values": [[1, 2]]}, LABELS, "is no file of attributes"),
        ({"attributes": NAMES, "values": VALUES[:2]}, LABELS, "describes 2 classes.*has 3"),
        ({"attributes": NAMES, "values": VALUES}, [0, 1, 3, 0, 0, 0], "label 3 is outside"),
    ],
)
def test_what_does_not_fit_is_refused(content, labels, told, place, images, tmp_path):
    if content is not None:
        (tmp_path / "attributes.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(Refusal, match=told):
        examined(images, labels, network(place, "probe"), tmp_path / "attributes.json")


def test_texts_need_a_text_tower(place, images):
    plain = Network("timm/test_vit", args=(("pretrained", "false"), ("num_classes", "3")), image_size=64)
    with pytest.raises(Refusal, match="text tower"):
        examined(images, LABELS, plain, place / "attributes.json")


def published(out) -> tuple[dict, list[dict]]:
    """A run's maps by image, method and target, and its rows of `attributes`."""
    run = tables.open(str(out))
    maps = {(row["image_id"], row["method"], row["target"]): row for row in run.table("maps").to_pylist()}
    return maps, run.sql("SELECT * FROM attributes ORDER BY image_id, method, target").to_pylist()


def asked(place, folder, **changes):
    """A job about five images of three classes, and one without a label, in two shards."""
    samples = [(f"image{i}", good(i, classes=3)) for i in range(5)] + [("unlabelled", {"png": encoded(picture(5))})]
    folder.mkdir(exist_ok=True)
    for shard in range(2):
        (folder / f"{shard:05}.tar").write_bytes(tar_bytes(samples[3 * shard :][:3]))
    plain = {"backbone": "open_clip/examined-vit/none", "probe": str(place / "probe.safetensors"), "methods": ("grad_cam",)}
    plain["targets"] = (f"apart=attributes:{place / 'attributes.json'}(top=2)",)
    return job(str(folder / "*.tar"), folder / "out", **{**plain, **changes})


def test_a_job_publishes_how_like_the_maps_are_and_adds_a_method_alone(place, tmp_path):
    out = tmp_path / "out"
    explain.run(asked(place, tmp_path))
    landed = set(out.glob("tasks/**/receipt.json"))
    explain.run(asked(place, tmp_path, methods=("grad_cam", "gradient", "eigen_cam")))
    added = [json.loads(path.read_text()) for path in set(out.glob("tasks/**/receipt.json")) - landed]
    assert sorted({part["table"] for receipt in added for part in receipt["cells"].values()}) == ["attributes", "maps"]
    maps, found = published(out)
    weights = network(place, "probe").load().class_weights().double().numpy()
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    rivals = (unit @ unit.T - 3 * np.eye(3)).argmax(1).tolist()
    expected = [
        (f"{i // 3:05}.tar/image{i}", method, f"apart#attribute_{k}", i % 3, rivals[i % 3], TEXTS[a], apart)
        for i in range(5)
        for method in ("grad_cam", "gradient")
        for k, (a, apart) in enumerate(APART[i % 3, rivals[i % 3]], 1)
    ]
    columns = ("image_id", "method", "target", "class_id", "rival", "attribute")
    assert [(*(row[name] for name in columns), round(row["difference"], 9)) for row in found] == expected
    for row in found:
        one, *others = (stored(maps[row["image_id"], row["method"], f"apart#{of}"]) for of in (row["target"][6:], "finer", "label"))
        for told, other in zip((row["like_finer"], row["like_label"]), others, strict=True):
            constant = not np.ptp(one) or not np.ptp(other)
            if constant:
                assert told is None
                continue
            # half a step of each map turns it, as a vector about its mean, by so much of an angle at most
            turned = float(sum(np.arcsin(STEP / 2 * np.ptp(each) / each.std()) for each in (one, other)))
            assert told == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1], abs=turned)
    errors = tables.open(str(out)).table("errors").to_pylist()
    assert {(row["image_id"], row["error"]) for row in errors} == {("00001.tar/unlabelled", "MissingLabel")}
    assert not explain.run(asked(place, tmp_path, methods=("grad_cam", "gradient", "eigen_cam"))).new


def test_the_maps_are_those_of_the_targets_they_are_made_of(place, tmp_path):
    own = asked(place, tmp_path).targets
    phrases = tuple(f"t{a}=text_contrast:{text}|bird" for a, text in enumerate(TEXTS))
    explain.run(asked(place, tmp_path, targets=(*own, "label", "near=finer(T=1,reference=weight_cosine)", *phrases)))
    maps, found = published(tmp_path / "out")
    same = {(row["image_id"], "grad_cam", row["target"]): f"t{TEXTS.index(row['attribute'])}" for row in found}
    for image in {row["image_id"] for row in found}:
        same |= {(image, "grad_cam", "apart#label"): "label", (image, "grad_cam", "apart#finer"): "near"}
    assert set(same) == {key for key in maps if key[2].startswith("apart#")}
    for key, target in same.items():
        one, other = stored(maps[key]), stored(maps[key[0], "grad_cam", target])
        assert np.abs(one - other).max() <= 1.01 * STEP * np.ptp(other), "no more than a code that the last digits turn"


def test_metrics_leave_the_compared_maps_out_and_scoring_keeps_the_table(place, tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": [{"classes": [0, 1], "parts": ["head"]}]}))
    targets = ("label", *asked(place, tmp_path).targets, f"cues=pairs:{tmp_path / 'pairs.json'}")
    explain.run(asked(place, tmp_path, targets=targets, metrics=("energy", "mpxap")))
    before = published(tmp_path / "out")
    assert score.main(["--out", str(tmp_path / "out"), "--metrics", "complexity"]) == 0
    run = tables.open(str(tmp_path / "out"))
    assert set(run.table("metrics")["target"].to_pylist()) == {"label", "none"}
    assert set(run.table("partials")["target"].to_pylist()) == {"label", "none", "cues", "cues#finer"}
    assert published(tmp_path / "out") == before


def test_what_decides_is_the_content_and_not_where_the_file_lies(place, tmp_path):
    explain.run(asked(place, tmp_path))
    content = json.loads((place / "attributes.json").read_text())
    (tmp_path / "moved.json").write_text(json.dumps(content))
    assert not explain.run(asked(place, tmp_path, targets=(f"apart=attributes:{tmp_path / 'moved.json'}(top=2)",))).new
    content["values"][0][0] -= 0.05
    (tmp_path / "moved.json").write_text(json.dumps(content))
    assert explain.run(asked(place, tmp_path, targets=(f"apart=attributes:{tmp_path / 'moved.json'}(top=2)",))).new


def test_workers_read_only_the_texts_that_are_explained(place, tmp_path):
    checked = check_job(asked(place, tmp_path, targets=(f"attributes:{place / 'attributes.json'}(top=1)", "text:a crow")))
    texts = {text for apart in checked.spec.targets[0].argument.classes for text, _ in apart.attributes}
    assert {text for text, _ in checked.network.phrases} == {*texts, "bird", "a crow"}
    assert len(texts) < len(TEXTS)


def test_without_a_selected_image_the_table_is_there_and_empty(place, tmp_path):
    explain.run(asked(place, tmp_path, select="predicted < 0"))
    assert published(tmp_path / "out") == ({}, [])


def test_what_a_job_cannot_compare_is_refused_before_any_work(place, tmp_path, capsys):
    line = ["--source", str(tmp_path / "*.tar"), "--out", str(tmp_path / "out"), "--workers", "0"]
    line += ["--backbone", "open_clip/examined-vit/none"]
    job = asked(place, tmp_path)
    for changes, told in [
        (["--probe", job.probe, "--targets", f"attributes:{tmp_path / 'none.json'}"], "no file of attributes"),
        (["--targets", *job.targets], "has 0"),
        (["--probe", job.probe, "--targets", *job.targets, "--target-args", "apart.top=0"], "attributes.top is 0; "),
    ]:
        assert explain.main([*line, *changes]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "plain.tar").write_bytes(tar_bytes([("unlabelled", {"png": encoded(picture(5))})]))
    line[1] = str(tmp_path / "plain.tar")
    assert explain.main([*line, "--probe", job.probe, "--targets", *job.targets]) == 2
    assert "no image carries a label" in capsys.readouterr().err
    assert not (tmp_path / "out" / "tasks").exists()
