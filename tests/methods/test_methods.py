"""What every method owes, looped over the registry; a new one is tested by being there."""

import itertools
from functools import cache

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

import pipeline
from pipeline import backbones, engine
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.families import Cam, cam
from pipeline.methods import METHODS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.conditioning import DOUBLE, STEP, agree, off, rounding, widened
from tests.entries import fact, files, missing
from tests.float_maps import LABELS, SHORT, fitting, float_maps
from tests.untouched import assert_untouched

SIZE = 64
BACKBONES = {
    "linear head": ("tests.tiny:build", {}),
    "curved head": ("tests.tiny:curved", {}),
    "latent place": ("tests.tiny:calm", {}),
    "vit": ("timm/test_vit", {"pretrained": "false", "img_size": "64", "num_classes": "5"}),
}


CAMS = sorted(name for name, method in METHODS.items() if method.family == "cam")


def test_every_method_has_its_entries_beside_the_tests_and_no_entry_is_left_over():
    assert not [*missing("methods", METHODS, ["DEFAULTS", "COST"])]
    assert not [*missing("methods", CAMS, ["HAND"])]
    assert not [*missing("methods", [name for name, method in METHODS.items() if method.seeded], ["NOISY"])]
    assert files("methods") == {*METHODS}, "an entry of tests/methods belongs to no method: remove it"


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def backbone(request):
    name, args = BACKBONES[request.param]
    return backbones.load(name, args=args, image_size=SIZE)


@pytest.fixture(scope="module")
def slacks(backbone, images):
    """How far each image's map [B] in single precision may be from its formula's, by method and target, once for all tests."""
    wide = widened(backbone)
    return cache(lambda method, target: rounding(lambda: float_maps(wide, images, method, target), draws=1)[1].numpy())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 3, SIZE, SIZE), dtype=np.uint8)


def maps(backbone, images, methods, targets=("label",), labels=LABELS, **how):
    """Stored maps by (method, target, image), in [0, 1] of each map's range, and the table."""
    short = [SHORT.get(method, method) for method in methods]
    tables = pipeline.explain(images, labels[: len(images)], backbone, short, targets, **how)
    assert tables["errors"].num_rows == 0, tables["errors"].to_pylist()
    rows = tables["maps"].to_pylist()
    return {(row["method"], row["target"], row["image_id"]): row for row in rows}


def values(row):
    return row["map_min"] + np.array(row["map"]) / 255 * (row["map_max"] - row["map_min"])


@pytest.mark.parametrize(
    "target",
    # phrases and pairs of classes need a text tower and a file; test_open_clip and test_cues have them
    [f"{name}:1" if entry.takes_argument else name for name, entry in TARGETS.items() if name not in ("none", "pairs") and not entry.texts],
)
def test_every_method_explains_every_target(backbone, images, target):
    methods, images = fitting(backbone), images[:2]
    found = maps(backbone, images, methods, [target])
    for method, i in itertools.product(methods, range(len(images))):
        row = found[method, "none" if METHODS[method].class_free else target, f"{i:08d}"]
        assert len(row["map"]) == row["height"] * row["width"]
        assert np.isfinite([row["map_min"], row["map_max"], row["mean"]]).all()
        assert (row["class_id"] is None) == METHODS[method].class_free
        if METHODS[method].family == "cam" and METHODS[method].grid == "cells":
            assert (row["height"], row["width"]) == tuple(backbone.grid)


def test_a_map_depends_neither_on_batch_size_nor_on_neighbours(backbone, images, slacks):
    methods = fitting(backbone)
    whole = maps(backbone, images, methods, ["label", "finer"])
    keys = [f"{i:08d}" for i in range(len(images))]
    others = [maps(backbone, images, methods, ["label", "finer"], batch_size=size) for size in (1, 3)]
    others.append(maps(backbone, images[::-1], methods, ["label", "finer"], labels=LABELS[: len(images)][::-1], keys=keys[::-1]))
    for other in others:
        assert other.keys() == whole.keys()
        for (method, target, key), row in whole.items():
            far = 2 * slacks(method, "label" if target == "none" else target)[int(key)]
            same = other[method, target, key]
            # one code of the 8-bit grid may flip; ahead of it the floats agree as far as rounding leaves them
            assert np.abs(values(same) - values(row)).max() <= STEP * (row["map_max"] - row["map_min"]) + 2 * far
            assert abs(same["map_max"] - row["map_max"]) <= far


@pytest.mark.parametrize("method", sorted(METHODS))
def test_float_maps_are_those_of_other_batches_as_far_as_rounding_leaves_them(backbone, images, method, slacks):
    if method not in fitting(backbone):
        pytest.skip("does not fit this network")
    whole = float_maps(backbone, images, method, "finer")
    alone = torch.cat([float_maps(backbone, images, method, "finer", slice(i, i + 1)) for i in range(len(images))])
    assert (off(whole, alone).numpy() <= 2 * slacks(method, "finer")).all()


def test_repeating_an_explanation_repeats_its_bits(backbone, images):
    methods, images = fitting(backbone), images[:2]
    assert maps(backbone, images, methods, ["label", "finer"]) == maps(backbone, images, methods, ["label", "finer"])


def test_noise_follows_the_seed_the_key_and_the_image_and_nothing_else(backbone, images):
    def noise(**how):
        return [row["map"] for row in maps(backbone, images, ["random"], **how).values()]

    first = noise()
    assert noise(batch_size=2) == first
    assert noise(seed=1) != first
    assert noise(keys=[f"other{i}" for i in range(len(images))]) != first
    assert len({tuple(m) for m in first}) == len(first)
    twins = np.stack([images[0]] * 2)
    same = maps(backbone, twins, ["random"], keys=["a", "a"], labels=(0, 0))
    assert len(same) == 1


class Counted:
    """A backbone that counts its passes."""

    def __init__(self, backbone):
        self.backbone, self.trunks, self.heads, self.backwards = backbone, 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def to(self, device):
        return self

    def trunk(self, x):
        self.trunks += 1
        return self.backbone.trunk(x)

    def readout(self, A, rest):
        self.heads += 1
        A.register_hook(lambda gradient: setattr(self, "backwards", self.backwards + 1)) if A.requires_grad else None
        return self.backbone.readout(A, rest)


@pytest.mark.parametrize("targets", [["label"], ["label", "finer", "predicted", "reverse"], ["finer(aggregation=max_pre)"]])
def test_the_whole_family_costs_one_trunk_pass_and_one_head_backward_per_direction(backbone, images, targets):
    counted = Counted(backbone)
    maps(counted, images, [name for name in fitting(backbone) if name in CAMS], targets)
    directions = 3 if "max_pre" in targets[0] else len(targets)
    closed_form = backbone.pooled_linear is not None
    assert (counted.trunks, counted.heads) == (1, 1)
    assert counted.backwards == (0 if closed_form else directions)


def test_methods_without_a_gradient_cost_no_backward(backbone, images):
    counted = Counted(backbone)
    maps(counted, images, ["eigen_cam", "fake_cam", "random"])
    assert (counted.trunks, counted.backwards) == (1, 0)


def test_nothing_is_left_on_the_network(backbone, images):
    maps(backbone, images[:2], fitting(backbone), ["label", "finer"])
    parts = [value for value in vars(backbone).values() if isinstance(value, torch.nn.Module)]
    assert parts, "the test looks at the backbone's modules"
    for part in parts:
        assert_untouched(part)


def test_on_a_resnet50_four_methods_are_one():
    """Its head is pooling and a linear layer; drawn at random, for a downloaded one is out of a test's reach."""
    backbone = backbones.load("timm/resnet50", args={"pretrained": "false", "num_classes": "10"}, image_size=128)
    images, four = (
        np.random.default_rng(0).integers(0, 256, (3, 3, 128, 128), dtype=np.uint8),
        ("cam(norm=minmax)", "grad_cam(norm=minmax)", "xgrad_cam(norm=minmax,eps=1e-30)", "hires_cam(norm=minmax)"),
    )

    def shapes(backbone, names=four):
        """Each method's maps of either target, whatever their scale [B 8 h w]."""
        seen = run_forward(backbone, backbone.prepare(torch.from_numpy(images)))
        said = Predictions(seen.logits, torch.arange(3))
        scene = Batch(seen, tuple(TARGETS[target].explain(said) for target in ("label", "finer")), torch.from_numpy(images), None)
        found = [engine.maps(parse(name, METHODS, "method"), scene, target) for name in names for target in (0, 1)]
        return torch.stack([maps / maps.abs().amax((1, 2), keepdim=True) for maps in found], 1)

    agree(shapes, backbone, lambda backbone: shapes(backbone, four[:1] * 4), draws=1)


HAND_A = torch.tensor([[[[1.0, 2.0], [0.0, 4.0]], [[3.0, 0.0], [1.0, 1.0]]]])
HAND_G = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[-1.0, 0.0], [0.0, 3.0]]]])


def hand(method):
    offered = {
        "A": HAND_A.double(),
        "dA": HAND_G.double(),
        "weights": torch.tensor([[1.0, -1.0]], dtype=torch.float64),
        "noise": torch.tensor([[[0.25, 0.5], [0.75, 0.0]]], dtype=torch.float64),
        "size": (2, 2),
    }
    exactly = {"eps": 0.0} if "eps" in METHODS[method].parameters else {}
    return METHODS[method].map(**{name: offered[name] for name in METHODS[method].inputs}, **exactly)[0]


@pytest.mark.parametrize("method", CAMS)
def test_methods_give_the_numbers_worked_out_by_hand(method):
    expected = fact("methods", method, "HAND")
    np.testing.assert_allclose(hand(method).numpy(), expected, **DOUBLE)


def test_grad_cam_pp_is_zero_where_its_denominator_is():
    A, G = torch.full((1, 1, 1, 2), -1.0), torch.tensor([[[[1.0, 0.5]]]])
    # sum A = -2: at g = 1 the denominator 2 + (-2) is zero, at g = 1/2 alpha = 1
    assert METHODS["grad_cam_pp"].map(A, G)[0].tolist() == [[-0.5, -0.5]]


def test_fake_cam_is_one_everywhere_but_in_one_pixel():
    fake = METHODS["fake_cam"].map(A=torch.zeros(2, 3, 2, 2), size=(8, 8))
    assert fake.shape == (2, 8, 8)
    assert (fake[:, 0, 0] == 0).all()
    assert fake.sum() == 2 * 63


@pytest.mark.parametrize("aggregation", ["mean_pre", "max_pre", "mean_post"])
def test_joins_of_references_by_hand(backbone, images, aggregation):
    def by_hand(backbone):
        seen = run_forward(backbone, backbone.prepare(torch.from_numpy(images)))
        separate = TARGETS["finer"].explain(Predictions(seen.logits, torch.tensor(LABELS[: len(images)])), aggregation="max_pre")
        gradients = seen.gradients(list(separate.directions.unbind(1)))
        each = torch.stack([(g.mean((2, 3), keepdim=True) * seen.A.detach()).sum(1) for g in gradients])
        return {"mean_pre": each.mean(0).relu(), "max_pre": each.amax(0).relu(), "mean_post": each.relu().mean(0)}[aggregation]

    agree(lambda backbone: float_maps(backbone, images, "grad_cam", f"finer(aggregation={aggregation})"), backbone, by_hand)


def test_a_method_that_raises_on_one_image_loses_that_image_alone(backbone, images, monkeypatch):
    def fragile(A):
        if torch.isclose(A.amax((1, 2, 3)), worst, rtol=1e-5).any():
            raise ValueError("this image\nis too much")
        return A.sum(1)

    worst = run_forward(backbone, backbone.prepare(torch.from_numpy(images))).A.amax((1, 2, 3))[2]
    monkeypatch.setitem(METHODS, "fragile", Cam("fragile", fragile))
    tables = pipeline.explain(images, [0] * len(images), backbone, ["fragile", "eigen_cam"])
    assert pc.value_counts(tables["maps"]["method"]).to_pylist() == [
        {"values": "fragile", "counts": len(images) - 1},
        {"values": "eigen_cam", "counts": len(images)},
    ]
    assert [(e["image_id"], e["stage"], e["error"], e["message"]) for e in tables["errors"].to_pylist()] == [
        ("00000002", "map", "ValueError", "fragile for none: this image is too much")
    ]


def test_a_map_that_is_not_finite_becomes_an_error(backbone, images, monkeypatch):
    monkeypatch.setitem(METHODS, "odd", Cam("odd", lambda A: A.sum(1) / torch.where(torch.arange(len(A)) == 3, 0.0, 1.0)[:, None, None]))
    tables = pipeline.explain(images, [0] * len(images), backbone, ["odd(norm=minmax)"])
    assert tables["maps"].num_rows == len(images) - 1
    assert tables["errors"]["error"].to_pylist() == ["NotFinite"]


def test_two_methods_of_one_name_are_refused():
    def grad_cam(A):
        return A.sum(1)

    with pytest.raises(Refusal, match="grad_cam"):
        cam(grad_cam)


def test_a_method_that_asks_for_what_does_not_exist_is_refused():
    with pytest.raises(Refusal, match="classifier"):
        Cam("new", lambda A, classifier: A)
