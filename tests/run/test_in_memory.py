"""pipeline.explain takes what Python holds (lists, arrays, tensors, Series) and refuses what a command line refuses."""

import numpy as np
import pandas as pd
import pytest
import torch

import pipeline
from pipeline import backbones
from pipeline.refusal import Refusal
from tests.shards import picture

SIDE, N = 32, 3
IMAGES = np.stack([np.asarray(picture(seed, SIDE)).transpose(2, 0, 1) for seed in range(N)])
BOXES = [[(0.1, 0.1, 0.6, 0.5)], [(0.2, 0.3, 0.9, 0.8)], [(0.0, 0.0, 0.5, 0.5)]]
MASKS = [np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % (2 + i) == 0 for i in range(N)]
CODES = [(mask * 1).astype(np.uint8) for mask in MASKS]


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("tests.tiny:build", image_size=SIDE)


def explain(backbone, images=IMAGES, labels=(0, 1, 2), methods=("grad_cam",), **how):
    return pipeline.explain(images, labels, backbone, methods, **{"metrics": ["energy", "pxap"], "boxes": BOXES, "masks": MASKS, **how})


def same(one: dict, other: dict) -> bool:
    return all(one[name].to_pylist() == other[name].to_pylist() for name in other)


@pytest.fixture(scope="module")
def plain(backbone):
    found = explain(backbone)
    assert not len(found["errors"]) and len(found["maps"]) == 3 * N
    return found


FORMS = {
    "list": list,
    "tuple": tuple,
    "array": np.asarray,
    "tensor": lambda values: torch.from_numpy(np.asarray(values)),
    "list of tensors": lambda values: [torch.from_numpy(np.asarray(value)) for value in values],
    "Series": lambda values: pd.Series(list(values), index=[f"row {i}" for i in range(len(values))]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "value"), [("images", IMAGES), ("labels", [0, 1, 2]), ("boxes", BOXES), ("boxes", [box for [box] in BOXES]), ("masks", MASKS)]
)
def test_one_of_each_image_may_come_in_any_form(backbone, plain, name, value, form):
    assert same(explain(backbone, **{name: FORMS[form](value)}), plain)


@pytest.mark.parametrize("form", FORMS)
def test_parts_and_keys_may_come_in_any_form(backbone, form):
    points = [{"eye": (0.5, 0.25)}, {"eye": np.array([0.25, 0.5])}, {"eye": torch.tensor([0.5, 0.5])}]
    keys = ["a", "b", "c"]
    in_form = pd.Series(keys) if form == "Series" else np.array(keys) if form == "array" else keys
    known = {"part_names": np.array(["eye"]), "keys": in_form}
    assert explain(backbone, parts=FORMS[form](CODES), **known)["images"]["image_id"].to_pylist() == keys
    some = points if form not in ("list", "tuple", "Series") else FORMS[form](points)
    assert not len(explain(backbone, parts=some)["errors"])


@pytest.mark.parametrize(
    "labels",
    [
        [0, None, 2],
        [0, -1, 2],
        [0, np.nan, 2.0],
        np.array([0, -1, 2]),
        pd.Series([0, None, 2]),
        pd.Series([0, None, 2], dtype="Int64"),
        ["0", None, "2"],
    ],
    ids=str,
)
def test_a_gap_among_labels_is_an_image_without_one(backbone, labels):
    assert explain(backbone, labels=labels)["images"]["label"].to_pylist() == [0, None, 2]


def test_names_of_classes_are_labels_where_the_network_has_them(backbone):
    from dataclasses import replace

    names = ("auk", "emu", "jay", "kea", "tit")
    known = replace(backbone, classes=names)
    assert explain(known, labels=np.array(["emu", "auk", "3"]))["images"]["label"].to_pylist() == [1, 0, 3]
    for network, told in ((known, "not one of the class names"), (backbone, "the class names are not known")):
        with pytest.raises(Refusal, match=told):
            explain(network, labels=["emu", "dodo", "auk"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"labels": [0, 1]}, "labels of 2 images for 3 images"),
        ({"labels": np.arange(4)}, "labels of 4 images for 3 images"),
        ({"labels": 1}, "labels are a int"),
        ({"labels": {0: 1}}, "labels are a dict"),
        ({"labels": [0, 1, 5]}, "image 2: label 5 is outside 0 ... 4"),
        ({"labels": [0, 1.5, 2]}, "the label of image 1 is 1.5"),
        ({"labels": np.eye(3, dtype=int)}, r"the label of image 0 is \[1, 0, 0\]"),
        ({"keys": ["a", "b"]}, "keys of 2 images"),
        ({"keys": "abc"}, "keys are a str"),
        ({"boxes": BOXES[:2]}, "boxes of 2 images"),
        ({"masks": MASKS * 2}, "masks of 6 images"),
        ({"masks": [mask[:9] for mask in MASKS]}, r"the mask of image 0 is bool \(9, 32\)"),
        ({"parts": CODES[:1], "part_names": ["eye"]}, "parts of 1 images"),
        ({"parts": [code.astype(float) for code in CODES]}, "the parts of image 0 are float64"),
        ({"parts": CODES}, "do not go with part_names"),
        ({"images": IMAGES.astype(np.float32)}, "images are float32"),
        ({"images": IMAGES.astype(np.uint16)}, "images are uint16"),
        ({"images": IMAGES[0]}, r"images are uint8 \(3, 32, 32\)"),
        ({"images": [IMAGES[0], IMAGES[1][:, :5], IMAGES[2]]}, "images have the shapes"),
        ({"images": []}, "takes uint8"),
        ({"batch_size": 0}, "--batch-size is '0'"),
        ({"map_size": 0}, "--map-size is 0; it must be at least 1"),
        ({"presicion": "fp16"}, "unknown setting of pipeline.explain 'presicion'; did you mean precision"),
        ({"methods": "gradcam"}, "did you mean grad_cam"),
        ({"no_store": "logit"}, "did you mean logits"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_in_one_line(backbone, wrong, told):
    with pytest.raises(Refusal, match=told) as caught:
        explain(backbone, **wrong)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refusal, match="there is no GPU"):
        explain(backbone, device="cuda")


def test_a_single_name_need_not_lie_in_a_list(backbone, plain):
    assert same(
        explain(backbone, methods="grad_cam", targets="label", no_store="features"), {k: v for k, v in plain.items() if k != "features"}
    )


def test_a_box_or_point_that_cannot_be_is_an_error_of_its_image(backbone, plain):
    """As on the command line: the image goes on with the others."""
    pixels = [BOXES[0], [(10, 10, 300, 200), *BOXES[1]], np.array([[*BOXES[2][0]], [0.5, 0.5, np.nan, 1.0]])]
    found = explain(backbone, boxes=pixels, parts=[{"eye": (0.5, 0.5, 0.5)}, None, {"eye": None}])
    told = [(row["image_id"], row["stage"], row["error"]) for row in found["errors"].to_pylist()]
    assert told == [("00000000", "read", "BadPoint"), ("00000001", "read", "BadBox"), ("00000002", "read", "BadBox")]
    assert same({"metrics": found["metrics"]}, {"metrics": plain["metrics"]})
