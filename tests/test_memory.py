"""A job that runs all night must not grow."""

import resource

import numpy as np
import pytest

from pipeline import backbones
from pipeline.explain import Explainer, Pictures
from pipeline.questions import ask, cells, fitted

BATCHES = 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tests.tiny:build", "tests.tiny:curved"])
def test_memory_is_flat_over_a_thousand_batches(name):
    backbone = backbones.load(name, image_size=64)
    questions, _ = fitted(ask(["family:cam"], ["label", "finer"]), backbone)
    explainer, wanted = Explainer(backbone, questions, batch_size=2), cells(questions, backbone, ())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    rows = [{"image_id": f"{i}", "key": f"{i}", "shard": "", "label": i} for i in range(2)]

    def peak(batches: int) -> float:
        for _ in range(batches):
            explainer(Pictures(pixels, rows, ["a", "b"]), wanted)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    settled = peak(BATCHES // 5)
    # one batch's activations and gradients kept by accident would be 0.1 MB, a leak of 80 MB over the rest
    assert peak(BATCHES - BATCHES // 5) - settled < 20
