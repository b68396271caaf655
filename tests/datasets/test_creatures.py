"""The drawn creatures: their truth is exact, their bytes are stable, and the shipped network knows them."""

import hashlib
import io
import itertools
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import webdataset
from PIL import Image
from safetensors.torch import load_file

from pipeline.datasets import creatures
from pipeline.datasets.creatures import classes
from pipeline.datasets.creatures.train import Training, accuracy, drawn, main, predict

PAIRS = list(itertools.combinations(creatures.CLASSES, 2))
POINT_PARTS = {
    "back": "back",
    "beak": "bill",
    "belly": "belly",
    "breast": "breast",
    "crown": "crown",
    "tail": "tail",
    **dict.fromkeys(("forehead", "left eye", "right eye", "nape", "throat"), "head"),
    **dict.fromkeys(("left leg", "right leg"), "leg"),
    **dict.fromkeys(("left wing", "right wing"), "wing"),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A small val split: 24 images in 3 shards, and the folder they are in."""
    out = tmp_path_factory.mktemp("creatures")
    return out, creatures.write(str(out), images_per_class=2, shards=3, split="val")


def _digests(urls: list[str]) -> list[str]:
    return [hashlib.sha256(Path(url).read_bytes()).hexdigest() for url in urls]


def test_the_same_seed_gives_the_same_bytes_in_another_process(shards, tmp_path):
    code = "import sys; from pipeline.datasets.creatures import write; print(*write(sys.argv[1], 2, 3))"
    again = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout.split()
    assert _digests(again) == _digests(shards[1])
    assert _digests(creatures.write(str(tmp_path), 2, 3, seed=5)) != _digests(shards[1])


def test_an_image_does_not_depend_on_those_drawn_before_it():
    first = creatures.draw(3, 4, 17)
    creatures.draw(3, 5, 17)
    second = creatures.draw(3, 4, 17)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)
    assert first.points == second.points


@pytest.mark.parametrize("index", range(12))
def test_box_and_points_fit_the_mask(index):
    drawing = creatures.draw(0, index, index)
    size = creatures.IMAGE_SIZE
    assert drawing.image.shape == (size, size, 3)
    assert drawing.mask.shape == (size, size)
    x0, y0, x1, y1 = (round(edge * size) for edge in drawing.box)
    inside = drawing.mask[y0:y1, x0:x1] > 0
    assert inside.sum() == (drawing.mask > 0).sum()
    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    for name, (x, y) in drawing.points.items():
        assert drawing.mask[int(y * size), int(x * size)] == creatures.PART_IDS[POINT_PARTS[name]], name


def test_every_part_is_seen_in_nearly_every_image():
    seen = np.array([np.bincount(creatures.draw(0, index % 12, index).mask.ravel(), minlength=10)[1:] for index in range(48)])
    assert ((seen >= 20).mean(0) > 0.95).all(), dict(zip(creatures.PARTS, seen.min(0), strict=True))


@pytest.mark.parametrize("index", range(8))
def test_two_classes_of_one_scene_differ_only_in_the_pixels_of_their_differing_parts(index):
    scene = {name: creatures.draw(7, label, index) for label, name in enumerate(creatures.CLASSES)}
    for a, b in PAIRS:
        truth = creatures.discriminating(scene[a].mask, a, b) | creatures.discriminating(scene[b].mask, a, b)
        changed = (scene[a].image != scene[b].image).any(-1) | (scene[a].mask != scene[b].mask)
        assert not (changed & ~truth).any(), (a, b)
        assert changed.any(), (a, b)


def test_differing_parts_from_the_table_are_the_drawn_design():
    for a, b in PAIRS:
        drawn_a, drawn_b = classes.design(a), classes.design(b)
        assert creatures.differing_parts(a, b) == tuple(part for part in creatures.PARTS if drawn_a[part] != drawn_b[part])
    assert [len(creatures.pairs(count)) for count in (0, 1, 2, 3)] == [0, 9, 10, 12]
    assert {creatures.differing_parts(a, b)[0] for a, b in creatures.pairs(1)} == set(creatures.PARTS) - {"head"}


def test_counting_bill_and_crown_as_head_leaves_the_near_pairs_as_they_are():
    as_cub = {pair: {creatures.CUB_PARTS[part] for part in creatures.differing_parts(*pair)} for pair in PAIRS}
    for count in (1, 2, 3):
        assert [pair for pair in PAIRS if len(as_cub[pair]) == count] == creatures.pairs(count)


def test_attributes_without_a_part_are_no_part():
    assert creatures.part_of("has_size::small_(5_-_9_in)") is None
    assert creatures.part_of("has_primary_color::blue") is None
    assert creatures.part_of("has_throat_color::red") == "head"
    assert [creatures.part_of(attribute) for attribute in ("has_bill_shape::hooked", "has_forehead_color::red")] == ["bill", "head"]


def test_the_tables_read_back_as_written(shards):
    out, _ = shards
    attributes = [line.split(" ", 1)[1] for line in (out / "attributes/attributes.txt").read_text().splitlines()]
    names = (out / "classes.txt").read_text().splitlines()
    rows = np.loadtxt(out / "attributes/class_attribute_labels_continuous.txt")
    ids = dict(line.split()[::-1] for line in (out / "parts/parts.txt").read_text().splitlines())
    assert tuple(attributes) == creatures.ATTRIBUTES
    assert tuple(names) == creatures.CLASSES
    assert {part: int(number) for part, number in ids.items()} == creatures.PART_IDS
    for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
        differing = {creatures.part_of(attributes[k]) for k in np.flatnonzero((rows[i] >= 50) != (rows[j] >= 50))}
        assert differing == set(creatures.differing_parts(a, b))


def test_shards_are_read_by_webdataset_and_pil(shards):
    samples = list(webdataset.WebDataset(shards[1], shardshuffle=False))
    assert len(samples) == 24
    assert len({sample["__key__"] for sample in samples}) == 24
    labels = [int(sample["cls"]) for sample in samples]
    assert np.bincount(labels).tolist() == [2] * 12
    for sample, label in zip(samples, labels, strict=True):
        truth = json.loads(sample["json"])
        again = creatures.draw(truth["seed"], label, truth["index"])
        mask = Image.open(io.BytesIO(sample["parts.png"]))
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), again.mask)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), again.image)
        assert truth["label"] == label
        assert truth["label_name"] == creatures.CLASSES[label]
        assert truth["boxes"] == [list(again.box)]
        assert truth["parts"].keys() == again.points.keys()


def test_shard_members_carry_no_time_and_no_user(shards):
    with tarfile.open(shards[1][0]) as tar:
        assert {(member.mtime, member.uname, member.gname) for member in tar} == {(0, "", "")}


def test_shards_go_to_any_storage_and_wrong_counts_are_refused():
    urls = creatures.write("memory://creatures", images_per_class=1, shards=1)
    assert urls == ["memory://creatures/val/00000.tar"]
    with pytest.raises(ValueError, match="0 images"):
        creatures.write("memory://creatures", images_per_class=0)


def test_the_shipped_weights_classify_fresh_creatures_as_their_sidecar_says():
    facts = creatures.sidecar()
    model = timm.create_model(facts["model"], **facts["args"])
    model.load_state_dict(load_file(creatures.weights_path()))
    images, labels = drawn(120, seed=2, processes=1)
    right = accuracy(predict(model, images), labels)
    assert right >= facts["val_accuracy"] - 0.05, right
    assert facts["val_accuracy"] >= 0.95
    assert creatures.weights_path().stat().st_size < 3_000_000
    with torch.inference_mode():
        assert model.forward_features(torch.zeros(1, 3, 128, 128)).shape[-2:] == (16, 16)


def test_training_writes_weights_and_a_sidecar_that_load_again(tmp_path):
    main(Training(images=48, val_images=24, epochs=1, batch_size=24, out=tmp_path / "new" / "weights.safetensors"))
    facts = json.loads((tmp_path / "new" / "weights.json").read_text())
    assert facts["args"] == creatures.ARGS
    assert facts["training"]["images"] == 48
    assert 0 <= facts["val_accuracy"] <= 1
    timm.create_model(facts["model"], **facts["args"]).load_state_dict(load_file(tmp_path / "new" / "weights.safetensors"))
