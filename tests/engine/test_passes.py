"""What every method costs: counted on the network itself, beside the cost model; and what it does where memory runs out."""

import gc
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from jobs import explain
from pipeline import backbones, tables
from pipeline.engine import budget
from pipeline.maps.quantise import stored
from pipeline.methods import METHODS
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec.explain_spec import build_spec
from pipeline.stages.explainer import Explainer
from tests.conditioning import off, rounding, widened
from tests.costs import EXAMPLES, Meter, answered, fits, state
from tests.entries import fact
from tests.jobs import job
from tests.shards import dataset

SIZE, IMAGES = 64, 3
BACKBONES = {
    "linear head": ("tests.tiny:build", {}),
    "curved head": ("tests.tiny:curved", {}),
    "latent place": ("tests.tiny:calm", {}),
    "vit": ("timm/vit_tiny_patch16_224", {"embed_dim": 24, "num_heads": 2, "depth": 2, "num_classes": 5, "pretrained": False}),
}
ALONE = {
    "cam": "tests.tiny:build",
    "calm": "tests.tiny:calm",
}  # what fits neither of the other two; the dearer tests use these two alone for it


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def backbone(request):
    name, args = BACKBONES[request.param]
    return backbones.load(name, args=args, image_size=SIZE)


@pytest.fixture(scope="module")
def pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    rows = [ImageRow(image_id=f"{i}", key=f"{i}", label=i) for i in range(IMAGES)]
    return DecodedImages(pixels, rows, [f"{i}" for i in range(IMAGES)])


def tried_elsewhere(method, backbone):
    return backbone.name in ALONE.values() and ALONE.get(method) != backbone.name


K = {"tests.tiny:build": 12, "tests.tiny:curved": 12, "tests.tiny:calm": 12, "timm/vit_tiny_patch16_224": 24}


def passes(written, K):
    """`1F + 2B + K f` as a counter: F, B through the network, f, b through its head."""
    total = Counter()
    for term in filter(None, written.replace(" ", "").split("+")):
        total[term[-1]] += K if term[:-1] == "K" else int(term[:-1])
    return total


def test_every_method_is_counted_on_some_network():
    networks = [backbones.load(name, args=args, image_size=SIZE) for name, args in BACKBONES.values()]
    assert {method for method in METHODS if any(fits(method, each) for each in networks)} == {*METHODS}
    assert {method for method in METHODS if any(fits(method, n) and not tried_elsewhere(method, n) for n in networks)} == {*METHODS}


@pytest.mark.parametrize("target", ["label", "finer"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_tallied_is_spent_and_is_the_cost_model_s(backbone, pictures, method, target):
    if not fits(method, backbone):
        pytest.skip("does not fit this network")
    meter = Meter(backbone)
    _, tally = answered(backbone, pictures, [EXAMPLES[method]], [target], during=lambda: meter)
    rows = meter.rows
    spent = Counter()
    for (_, kind), number in tally.items():
        if kind != "seconds":
            spent[{"forwards": "F", "backwards": "B", "heads": "f", "head_backwards": "b"}[kind]] += number
    apart = passes(fact("methods", method, "MORE_FINER", ("", ""))[0] if target == "finer" else "", 0)
    # by rules of its own, so no gradient passes
    relevance = IMAGES * (1 + apart["B"]) if "RA" in getattr(METHODS[method], "inputs", ()) else 0
    assert rows["in"] == spent["F"]
    tokens = IMAGES * (math.prod(backbone.grid) + 1) if getattr(METHODS[method], "streams", False) else 0  # each is read out by itself
    assert rows["out"] == spent["F"] + spent["f"] + tokens
    assert rows["out back"] == spent["B"] + spent["b"] - relevance
    if METHODS[method].family in ("path", "optimised"):
        assert rows["in back"] == spent["B"]
    assert tally["look", "forwards"] == IMAGES
    assert {payer for payer, _ in tally} <= {"look", method}
    found = Counter({kind: number / IMAGES for kind, number in spent.items() if number})
    expected = passes(fact("methods", method, "COST"), K[backbone.name]) + passes(fact("methods", method, "MORE", ("", ""))[0], 0) + apart
    if most := fact("methods", method, "AT_MOST", None):
        assert expected["F"] <= found["F"] <= passes(most, 0)["F"]
        return
    if backbone.pooled_linear is not None:  # closed form: neither gradients nor ablations pass the head
        del expected["b"], expected["f"]
    assert found == expected


def test_what_is_shared_is_paid_once_and_a_retry_is_no_second_look(backbone, pictures, monkeypatch):
    _, tally = answered(backbone, pictures, ["smooth_grad(samples=3)", "var_grad(samples=3)", "opti_cam(steps=2)"], ["label", "finer"])
    assert tally["smooth_grad", "forwards"] == tally["smooth_grad", "backwards"] == 2 * 3 * IMAGES
    assert not tally["var_grad", "forwards"]
    assert tally["opti_cam", "backwards"] == 2 * 2 * IMAGES
    fragile = METHODS["eigen_cam"].map

    def fails_on_many(A):
        if len(A) > 1:
            raise ValueError("one at a time")
        return fragile(A)

    monkeypatch.setitem(METHODS, "eigen_cam", type(METHODS["eigen_cam"])("eigen_cam", fails_on_many))
    answers, tally = answered(backbone, pictures, ["eigen_cam"])
    assert answers[-1][1].num_rows == IMAGES
    assert tally["look", "forwards"] == IMAGES, "each is tried by itself, and none is looked at again"


def test_a_run_says_what_every_method_has_cost_whenever_that_was(tmp_path):
    settings = {"backbone": "tests.tiny:curved", "targets": ("label", "finer"), "task_images": 3}
    source, out = dataset(tmp_path / "shards"), tmp_path / "out"
    explain.run(job(source, out, methods=("grad_cam", "o3=opti_cam(steps=3)", "rise(masks=20)"), **settings))
    first = tables.open(str(out)).manifest["passes"]
    seconds = {payer: spent.pop("seconds") for payer, spent in first.items()}
    assert min(seconds.values()) >= 0 and seconds["o3"] > 0 and seconds["look"] > 0
    assert first["look"] == {
        "images": 12, "forwards": 12, "backwards": 0, "heads": 0, "head_backwards": 0, "per_image": {"forwards": 1.0}
    }  # fmt: skip
    assert first["grad_cam"]["per_image"] == {"head_backwards": 2.0}
    assert first["o3"]["per_image"] == {"forwards": 6.0, "backwards": 6.0}
    assert first["rise"]["per_image"] == {"forwards": 20.0}
    explain.run(job(source, out, methods=("o3=opti_cam(steps=3)", "o2=opti_cam(steps=2)"), metrics=("ad",), **settings))
    second = tables.open(str(out)).manifest["passes"]
    assert second["o2"]["per_image"] == {"forwards": 4.0, "backwards": 4.0}
    assert "rise" not in second
    assert second["o3"]["forwards"] > first["o3"]["forwards"], "its maps are made again for a metric that is new"
    assert second["ad"]["forwards"] == 12 * (2 * 2 + 2), "two methods about two targets, and two controls"


class Full:
    """A GPU without room for more than `most` rows at a time."""

    def __init__(self, backbone, most):
        self.module, self.most, self.met = Meter(backbone).ends["in"], most, 0

    def __enter__(self):
        self.handle = self.module.register_forward_pre_hook(self._check)

    def __exit__(self, *error):
        self.handle.remove()

    def _check(self, module, given):
        if len(given[0]) > self.most:
            self.met += 1
            raise torch.cuda.OutOfMemoryError("out of memory")


def stored_maps(results) -> torch.Tensor:
    """The maps of all images as they are stored [N h w]; no image may be lost."""
    rows = [row for _, table, errors in results if not errors.num_rows for row in table.to_pylist() if "map" in row]
    assert all(not errors.num_rows for _, _, errors in results), [errors.to_pylist() for _, _, errors in results]
    return torch.stack([torch.from_numpy(stored(row)).double() for row in rows])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_where_memory_runs_out_every_family_halves_and_goes_on(backbone, pictures, method):
    """Also the look, whose batch is halved: maps are the same but for rounding and one step of 8 bits, and no image is lost."""
    if not fits(method, backbone) or tried_elsewhere(method, backbone):
        pytest.skip("does not fit this network, or is tried on the other one")

    def maps(network, **how):
        return stored_maps(answered(network, pictures, [EXAMPLES[method]], map_size=SIZE, **how)[0])

    calm, full, wide = maps(backbone), Full(backbone, most=2), widened(backbone)
    tight = maps(backbone, during=lambda: full)
    assert full.met
    slack = rounding(lambda: maps(wide), draws=1)[1]  # of each of two
    step = (calm.amax((1, 2)) - calm.amin((1, 2))) / 255
    assert (off(calm, tight) <= 2 * slack + 1.01 * step).all()


@pytest.mark.parametrize("kind", sorted(budget.ROWS))
def test_a_pass_that_does_not_fit_is_made_again_in_halves_and_one_item_is_as_far_as_it_goes(kind):
    class Scene:
        pixels, kept = torch.zeros(1), {}

        def cached(self, key, compute):
            return self.kept.setdefault(key, compute())

    scene, done = Scene(), []

    def one_pass(start, stop, most=3):
        if stop - start > most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        done.append((start, stop))

    budget.within_budget(scene, 20, one_pass, "method", kind)
    assert [start for start, _ in done] == [0, *(stop for _, stop in done[:-1])]
    assert done[-1][1] == 20
    assert budget.budget_of(scene, "method", kind).rows == 2
    assert budget.budget_of(scene, "another", kind).rows == budget.ROWS[kind]["cpu"], "one method's memory is not another's"
    budget.within_budget(scene, 7, one_pass, "large", kind, rows_each=4, most=2)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        budget.within_budget(scene, 3, lambda start, stop: one_pass(start, stop, most=0), "method", kind)


def survivors(call):
    """What three calls leave behind of tensors and of objects of any kind, after two that may fill caches."""
    call()
    call()
    gc.collect()
    gc.freeze()  # whatever is there by now is out of the collector's sight
    try:
        for _ in range(3):
            call()
        gc.collect()
        found = gc.get_objects()
        return sum(issubclass(type(each), torch.Tensor) for each in found), len(found)
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nothing_is_left_behind_by_calls_that_end_well_or_badly(backbone, pictures, method):
    if not fits(method, backbone) or tried_elsewhere(method, backbone):
        pytest.skip("does not fit this network, or is tried on the other one")
    before = state(backbone)
    spec, _ = fit_to_backbone(build_spec([EXAMPLES[method]], ["label", "finer"]), backbone)
    explainer, wanted = Explainer(backbone, spec), outputs_of(spec, backbone, ())
    last, passed = Meter(backbone).ends["out"], []

    def call(fails):
        """One call; one that fails does so in the last layer, the second time it is passed."""
        passed.clear()

        def fail(module, given):
            passed.append(1)
            if len(passed) > 1:
                raise ValueError("it fails")

        handle = last.register_forward_pre_hook(fail) if fails else None
        errors = sum(errors.num_rows for *_, errors in explainer(pictures[:2], wanted))
        if handle:
            handle.remove()
        assert fails or not errors

    for fails in (False, True):
        tensors, objects = survivors(partial(call, fails))
        assert tensors == 0
        assert objects < 60, "a library may remember something; what three calls keep of theirs is more"
        assert state(backbone) == before
