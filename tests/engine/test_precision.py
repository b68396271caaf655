"""fp32 is exactly the network; half precision is asked for, said, and near it."""

import logging
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs import explain
from pipeline import backbones, engine, tables
from pipeline.engine.forward import PRECISIONS
from pipeline.methods import METHODS
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import parse
from pipeline.spec.job import Job
from tests.costs import EXAMPLES, Meter, answered, fits, state
from tests.jobs import job
from tests.scenes import scene
from tests.shards import dataset
from tests.tiny import lively

SIZE, IMAGES = 64, 4
# Networks whose answers move with their input: as torch draws them, gradients are rounding.
BACKBONES = {
    "cnn": ("tests.tiny:lively", {"curved": True}),
    "vit": ("tests.vits:build", {"kind": "vit"}),
    "linear head": ("tests.tiny:lively", {}),
    "latent place": ("tests.tiny:calm", {}),
}
ALONE = {"cam": "linear head", "calm": "latent place"}  # for what fits neither of the first two, and for nothing else
# Pearson's correlation of half precision's maps with float32's, median over images: what random networks keep to. docs/precision.md has
# trained ones. bfloat16 keeps 8 bits of a number, float16 11: what rounding does is an eighth.
LEAST = {
    "bf16": {"cam": 0.98, "masked": 0.98, "optimised": 0.9, "path": 0.9, "attention": 0.98, "latent": 0.98},
    "fp16": {"cam": 0.999, "masked": 0.999, "optimised": 0.99, "path": 0.99, "attention": 0.999, "latent": 0.999},
}


@pytest.fixture(scope="module", params=sorted(BACKBONES))
def backbone(request):
    return loaded(request.param)


def loaded(kind):
    name, args = BACKBONES[kind]
    return replace(backbones.load(name, args=args, image_size=SIZE), name=kind)


def met(method, backbone):
    """Whether a method is tried on this network."""
    return (
        fits(method, backbone)
        and ALONE.get(method, backbone.name) == backbone.name
        and (backbone.name not in ALONE.values() or method in ALONE)
    )


@pytest.fixture(scope="module")
def pictures():
    from pipeline.sources.images import DecodedImages, ImageRow
    from tests.shards import picture

    pixels = np.stack([np.asarray(picture(i, SIZE)).transpose(2, 0, 1) for i in range(IMAGES)])
    rows = [ImageRow(image_id=f"{i}", key=f"{i}", label=i) for i in range(IMAGES)]
    return DecodedImages(pixels, rows, [f"{i}" for i in range(IMAGES)])


class Arithmetic:
    """Whether the network is run under autocast, seen from its first layer."""

    def __init__(self, backbone):
        self.module, self.seen = Meter(backbone).ends["in"], set()

    def __enter__(self):
        self.handle = self.module.register_forward_pre_hook(lambda *given: self.seen.add(torch.is_autocast_enabled("cpu")))

    def __exit__(self, *error):
        self.handle.remove()


def maps(backbone, pictures, method, **how):
    arithmetic = Arithmetic(backbone)
    answers, _ = answered(backbone, pictures, [EXAMPLES[method]], during=lambda: arithmetic, map_size=SIZE, **how)
    assert not any(errors.num_rows for *_, errors in answers)
    rows = [row for cell, table, _ in answers if cell.table == "maps" for row in table.to_pylist()]
    return [np.array(row["map"]) / 255 * (row["map_max"] - row["map_min"]) for row in rows], arithmetic.seen


def test_fp32_is_what_is_run_unless_asked_otherwise():
    assert {Job.__dataclass_fields__["precision"].default, ExplainSpec.__dataclass_fields__["precision"].default} == {"fp32"}
    assert PRECISIONS["fp32"] is None


def test_every_method_is_tried():
    networks = [loaded(kind) for kind in BACKBONES]
    assert {method for method in METHODS if any(met(method, each) for each in networks)} == {*METHODS}


@pytest.mark.parametrize("precision", sorted(LEAST))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_maps_of_half_precision_are_near_those_of_fp32_which_no_autocast_touches(backbone, pictures, method, precision):
    if not met(method, backbone):
        pytest.skip("does not fit this network, or is tried on another")
    before = state(backbone)
    full, plain = maps(backbone, pictures, method)
    assert plain == {False}
    half, cast = maps(backbone, pictures, method, precision=precision)
    assert True in cast
    assert state(backbone) == before
    assert all(np.isfinite(each).all() for each in half)
    lively = [(a, b) for a, b in zip(full, half, strict=True) if a.std() > 0]
    if METHODS[method].family == "cam" and not METHODS[method].inputs & {"A"}:
        assert all(np.array_equal(a, b) for a, b in lively), "nothing of the network is in it"
    elif lively:
        assert statistics.median(np.corrcoef(a, b)[0, 1] if b.std() else 0.0 for a, b in lively) >= LEAST[precision][METHODS[method].family]


def sure():
    network = lively(curved=True)
    network[-1].weight.data *= 200
    return network


def test_what_float16_cannot_hold_of_a_sure_network_s_probability_mask_does_not_see(pictures):
    """mask descends on p, whose gradient is p (1 - p): below 6e-8 float16 has nothing but zero, where bfloat16 has float32's range.

    What descends on a logit is not concerned.
    """
    backbone, pixels = backbones.load("tests.engine.test_precision:sure", image_size=SIZE), torch.from_numpy(pictures.pixels)

    def run(method, precision):
        where = scene(backbone, pixels, "predicted", ids=[0])
        object.__setattr__(where, "precision", precision)
        return engine.maps(parse(method, METHODS, "method"), where, 0).flatten(), where.forward.logits.double().softmax(1).max()

    step = "mask(steps=1,start=ones,area=0,smooth=0)"  # one step along the gradient alone
    (full, p), (bf16, _), (fp16, _) = (run(step, precision) for precision in ("fp32", "bf16", "fp16"))
    assert 0 < 1 - p < 6e-8
    assert full.max() > 0.01
    assert np.corrcoef(full, bf16)[0, 1] > 0.98
    assert not fp16.any()
    assert run("mask(steps=5)", "fp16")[0].isfinite().all()
    assert np.corrcoef(*(run("opti_cam(steps=5)", precision)[0] for precision in ("fp32", "fp16")))[0, 1] > 0.99


def test_a_job_says_once_that_maps_move_and_keeps_it_in_its_run(tmp_path, caplog):
    source = dataset(tmp_path / "shards", shards=1)
    with caplog.at_level(logging.WARNING):
        explain.run(job(source, tmp_path / "full", methods=("grad_cam",)))
        assert "precision" not in caplog.text
        explain.run(job(source, tmp_path / "half", methods=("grad_cam",), precision="bf16"))
    assert caplog.text.count("--precision bf16 moves every map") == 1
    runs = [tables.open(str(tmp_path / name)).manifest for name in ("full", "half")]
    assert [facts["job"]["precision"] for facts in runs] == ["fp32", "bf16"]
    assert not {cell["identity"] for cell in runs[0]["cells"] if cell["table"] == "maps"} & {cell["identity"] for cell in runs[1]["cells"]}
