"""A rehearsal counts the passes that the whole would make, for every method and metric, and makes few of them."""

from collections import Counter

import numpy as np
import pytest

from pipeline import backbones
from pipeline.engine import costs, rehearsal
from pipeline.engine.batch import PASSES
from pipeline.engine.rehearsal import MADE, Rehearsal, steps_of
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec.explain_spec import build_spec
from pipeline.stages.explainer import Explainer
from tests.costs import EXAMPLES, Meter, fits
from tests.entries import fact

SIZE, IMAGES = 64, 4
VIT = {"embed_dim": 24, "num_heads": 2, "depth": 2, "num_classes": 5, "pretrained": False}
BACKBONES = {
    "curved head": ("tests.tiny:curved", {}),
    "linear head": ("tests.tiny:build", {}),
    "latent place": ("tests.tiny:calm", {}),
    "vit": ("timm/vit_tiny_patch16_224", VIT),
}


@pytest.fixture(scope="module")
def networks():
    return {name: backbones.load(module, args=args, image_size=SIZE) for name, (module, args) in BACKBONES.items()}


@pytest.fixture(scope="module")
def pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    box = {"boxes": [(0.25, 0.25, 0.75, 0.75)]}
    rows = [ImageRow(image_id=f"{i}", key=f"{i}", label=i, **box) for i in range(IMAGES)]
    return DecodedImages(pixels, rows, [f"{i}" for i in range(IMAGES)])


def spent(backbone, pictures, tally, **spec):
    """The tally after the images were explained, the errors, and the rows that the network's own modules have seen."""
    fitting, _ = fit_to_backbone(build_spec(targets=["label", "finer"], **spec), backbone)
    explainer, meter = Explainer(backbone, fitting), Meter(backbone)
    explainer.backbone.class_weights()
    with meter:
        results = explainer(pictures, outputs_of(fitting, backbone, ()), tally)
    errors = [error for _, _, of_output in results for error in of_output.to_pylist()]
    return {key: count for key, count in tally.items() if key[1] in PASSES and count}, errors, meter.rows


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_counted_as_if_all_of_its_passes_were_made(method, networks, pictures):
    backbone = next(network for network in networks.values() if fits(method, network))
    whole, errors, rows = spent(backbone, pictures, Counter(), methods=[EXAMPLES[method]])
    counted, more_errors, fewer_rows = spent(backbone, pictures, Rehearsal(), methods=[EXAMPLES[method]])
    assert not errors and not more_errors
    if fact("methods", method, "AT_MOST", None):  # it stops where the scores say so, and those of a rehearsal are not the scores
        assert all(counted[key] >= 1 for key in whole)
        return
    assert counted == pytest.approx(whole, abs=1e-6)
    assert fewer_rows["in"] <= rows["in"]


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if not metric.of_pairs])  # those ask the network nothing
def test_every_metric_is_counted_as_if_all_of_its_passes_were_made(metric, networks, pictures):
    spec = {"methods": ["grad_cam"], "metrics": [metric]}
    whole, errors, _ = spent(networks["curved head"], pictures, Counter(), **spec)
    counted, more_errors, _ = spent(networks["curved head"], pictures, Rehearsal(), **spec)
    assert counted == pytest.approx(whole, abs=1e-6)
    assert [error["error"] for error in errors] == [error["error"] for error in more_errors]


def test_few_passes_of_a_long_loop_are_made(networks, pictures):
    for method, most in (("rise(masks=400)", 200), ("opti_cam(steps=50)", 2 * MADE * IMAGES)):
        counted, _, rows = spent(networks["curved head"], pictures, Rehearsal(), methods=[method])
        assert rows["in"] <= IMAGES + most, "beside the look"
        assert counted[method.partition("(")[0], "forwards"] in (400 * IMAGES, 2 * 50 * IMAGES)


def test_left_out_steps_cost_as_much_as_those_that_were_made(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(rehearsal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(costs.time, "monotonic", lambda: now[0])
    tally = Rehearsal()
    with costs.timed(tally, "rise"):
        for step in steps_of(tally, range(0, 105, 10), 105, 10):  # ten steps of ten, one of five
            now[0] += 100.0 if step == 0 else 2.0  # the first step warms up
            tally["rise", "forwards"] += 10
    assert tally["rise", "forwards"] == 105 and tally.skipped == pytest.approx(2.0 * (105 - 30) / 10)
    assert tally["rise", costs.SECONDS] == pytest.approx(100 + 2 * 2 + 2 * 7.5)


def test_a_short_loop_and_a_loop_of_a_job_are_made_whole():
    tally = Rehearsal()
    assert [*steps_of(tally, range(MADE), MADE)] == [*range(MADE)] and not tally.skipped
    assert [*steps_of(Counter(), range(50), 50)] == [*range(50)]
