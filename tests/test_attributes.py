"""The attribute examination against differences and maps worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline import analysis
from pipeline.backbones import load
from pipeline.backbones import probe as probes
from pipeline.questions import Network
from pipeline.refusal import Refusal
from tests import tiny

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
    probe = probes.Probe(torch.randn(3, 24, generator=draws), torch.zeros(3), BIRDS, "", dict(trunk.origin), {})
    probes.write(str(folder / "probe.safetensors"), probe)
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (len(LABELS), 3, 64, 64), dtype=np.uint8)


def network(place, classes: str) -> Network:
    how = {"probe": str(place / "probe.safetensors")} if classes == "probe" else {"text_classes": BIRDS}
    return Network("open_clip/examined-vit/none", **how)


def grad_cam(backbone, image, direction) -> np.ndarray:
    """Of one image, by automatic differentiation."""
    A, rest = backbone.trunk(backbone.prepare(torch.from_numpy(image)[None]))
    A.requires_grad_()
    (gradient,) = torch.autograd.grad(backbone.head(A, rest)[0] @ direction, A)
    return (gradient.mean((2, 3), keepdim=True) * A).sum(1).relu()[0].detach().numpy()


@pytest.mark.parametrize("classes", ["probe", "texts"])
@pytest.mark.parametrize("gamma", [0.6, 2.0])
def test_the_maps_of_attributes_are_compared_with_those_of_the_class(classes, gamma, place, images):
    found = analysis.attribute_examination(images, LABELS, network(place, classes), str(place / "attributes.json"), gamma=gamma).to_pylist()
    backbone = replace(network(place, classes), phrases=tuple((text, ()) for text in (*TEXTS, "bird"))).load()
    rows = backbone.class_weights().numpy().astype(np.float64)
    cosines = rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1)) - 3 * np.eye(3)
    rivals, one = cosines.argmax(1).tolist(), torch.eye(3 + len(TEXTS) + 1)
    expected = [(i, c, rivals[c], a, apart) for i, c in enumerate(LABELS) for a, apart in APART[c, rivals[c]]]
    told = [(row["image"], row["class_id"], row["rival"], TEXTS.index(row["attribute"]), round(row["difference"], 9)) for row in found]
    assert told == expected
    known = 0
    for row, (i, c, d, a, _) in zip(found, expected, strict=True):
        shown = grad_cam(backbone, images[i], one[3 + a] - gamma * one[-1])
        for of, direction in {"finer": one[c] - gamma * one[d], "label": one[c]}.items():
            other = grad_cam(backbone, images[i], direction)
            if not np.ptp(shown) or not np.ptp(other):
                assert row[f"like_{of}"] is None
                continue
            known += 1
            assert row[f"like_{of}"] == pytest.approx(np.corrcoef(shown.ravel(), other.ravel())[0, 1], abs=0.02), "maps have 8 bits"
    assert known >= len(found)


def test_several_methods_and_fewer_attributes(place, images):
    asked = {"methods": ("grad_cam", "gem(depth=1)"), "top": 1}
    found = analysis.attribute_examination(images, LABELS, network(place, "probe"), str(place / "attributes.json"), **asked)
    assert found.num_rows == 2 * len(LABELS)
    assert set(found["method"].to_pylist()) == {"grad_cam", "gem"}


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
        analysis.attribute_examination(images, labels, network(place, "probe"), str(tmp_path / "attributes.json"))


def test_texts_need_a_text_tower(place, images):
    plain = Network("timm/test_vit", args=(("pretrained", "false"), ("num_classes", "3")), image_size=64)
    with pytest.raises(Refusal, match="text tower"):
        analysis.attribute_examination(images, LABELS, plain, str(place / "attributes.json"))
