"""A job that runs all night must not grow."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import backbones
from pipeline.methods import METHODS
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec import plugins
from pipeline.spec.explain_spec import build_spec
from pipeline.stages.explainer import Explainer
from tests.entries import cheap
from tests.registries import registries

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux and its libc")
BATCHES = 1000
# The other families cost too much for a thousand. What one batch of sixteen keeps by accident is 1 MB and more, and sixteen batches count.
APART = {"glas_light": "masked, half of glas", "glas_shadow": "masked, half of glas"}  # beside glas they cost nothing
OTHERS = {"captum": ["deep_lift", "ig(n_steps=3)"]}
for name, entry in METHODS.items():
    if entry.family != "cam":
        OTHERS.setdefault(APART.get(name, entry.family), []).append(cheap(name))
NETWORKS = {
    "attention": ("timm/test_vit", {"pretrained": "false", "img_size": "64", "num_classes": "5"}),
    "latent": ("tests.tiny:calm", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tests.tiny:build", "tests.tiny:curved"])
def test_memory_is_flat_over_a_thousand_batches(name):
    # one batch's activations and gradients kept by accident would be 0.1 MB, a leak of 80 MB over the rest
    assert grown(backbones.load(name, image_size=64), ["family:cam"], 2, BATCHES) < 20


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(OTHERS))
def test_memory_is_flat_in_every_family(family):
    name, args = NETWORKS.get(family, ("tests.tiny:curved", {}))
    with registries():
        if family == "captum":
            plugins.load(["tests.own"])
        assert grown(backbones.load(name, args=args, image_size=64), OTHERS[family], 16, 20) < 10


def grown(backbone, methods, images, batches):
    """Megabytes that the process has grown by over the last four fifths of the batches, but for what its heap holds free."""
    spec, _ = fit_to_backbone(build_spec(methods, ["label", "finer"]), backbone)
    explainer, wanted = Explainer(backbone, spec), outputs_of(spec, backbone, ())
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, 64, 64), dtype=np.uint8)
    rows = [ImageRow(image_id=f"{i}", key=f"{i}", label=i % 5) for i in range(images)]

    def held(count: int) -> float:
        for _ in range(count):
            explainer(DecodedImages(pixels, rows, [f"{i}" for i in range(images)]), wanted)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # superpixels and their like leave a heap of holes, which is no leak
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    settled = held(batches // 5)
    return held(batches - batches // 5) - settled
