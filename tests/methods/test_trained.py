"""Methods on trained weights and a real image, against captum and against the slow references of their families in double precision.

In double precision all are their formulas; how far single precision may be is what their conditioning makes of rounding (conditioning.py).
"""

import copy

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline import backbones, engine
from pipeline.engine.masks import masks_of
from pipeline.families import Segments
from pipeline.maps.render import upsample
from pipeline.methods import METHODS
from pipeline.spec.grammar import parse
from tests.conditioning import Double, agree, doubled, off, widened
from tests.entries import cases
from tests.real import real_picture
from tests.references import attention, masked, optimised
from tests.references.attention import grid, softmaxes
from tests.scenes import captum_draws_ours, run, scene

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:captum")]
SIDE, HALF = 128, 0.5
ARGS = dict.fromkeys(("mean", "std"), f"{HALF},{HALF},{HALF}")
ASKED = {"target": "predicted", "ids": [0]}


def trained(realdata, name, side, **args):
    """A backbone, the plain network in double precision, and the backbone in it, all with the trained weights."""
    weights = str(realdata / "weights" / f"{name}.imagenet.safetensors")
    network = timm.create_model(name, **args).eval().requires_grad_(False)
    network.load_state_dict(load_file(weights))
    backbone = backbones.load(f"timm/{name}", weights=weights, args={**args, **ARGS}, image_size=side)
    return backbone, network.double(), widened(backbone)


@pytest.fixture(scope="module")
def cnn(realdata):
    """MobileNetV2, and the same in double precision as one sequence: six modules up to the last feature map, then pooling and classifier."""
    backbone, n, wide = trained(realdata, "mobilenetv2_100", SIDE, pad_type="same")
    return backbone, nn.Sequential(n.conv_stem, n.bn1, n.blocks, n.conv_head, n.bn2, nn.Identity(), n.global_pool, n.classifier), wide


@pytest.fixture(scope="module")
def vit(realdata):
    return trained(realdata, "vit_tiny_patch16_224", 224)


@pytest.fixture(scope="module")
def pixels(realdata):
    return real_picture(realdata, SIDE)


@pytest.fixture(scope="module")
def large(realdata):
    return real_picture(realdata, 224)


@pytest.fixture(scope="module")
def seen(cnn, pixels):
    """The image as captum takes it, in double precision, and the class that is explained."""
    where = scene(cnn[0], pixels, **ASKED)
    return doubled(cnn[0], pixels), int(where.targets[0].class_id[0])


def same(written, cnn, pixels, expected, draws=1):
    """The map of the one image is the expected one [1 h w]; of its thousands of numbers one draw finds the farthest."""
    agree(lambda backbone: run(written, backbone, pixels, **ASKED), cnn[0], expected, draws=draws, wide=(cnn[2],))


def test_a_trained_networks_logits_are_the_same_in_single_precision(cnn, pixels):
    y = cnn[1](doubled(cnn[0], pixels))
    agree(lambda backbone: scene(backbone, pixels, **ASKED).forward.logits, cnn[0], y, wide=(cnn[2],))
    assert y.softmax(1).max() > 0.5, "it knows the image, so its maps mean something"


def test_attention_is_what_its_formulas_make_of_a_trained_vit(vit, large):
    matrices = [A[0] for A in softmaxes(copy.deepcopy(vit[1]), doubled(vit[0], large))]
    expected = {"raw_attention": attention.raw_attention(matrices[-1]), "rollout": attention.rollout(matrices)}
    for method, row in expected.items():
        same(method, vit, large, grid(row, vit[0])[None])


@pytest.mark.parametrize("target", ["predicted", "finer"])
def test_tibav_is_its_formula_on_a_trained_vit(vit, large, target):
    """Relevance divides by sums that all but cancel. In single precision a third of the images' maps would be off by a tenth and more."""
    backbone, network, _ = vit
    seen = scene(backbone, large, target, ids=[0])
    expected = grid(attention.tibav(network, backbone.prepare(large), seen.targets[0].directions[:, 0])[0], backbone)
    ours = engine.maps(parse("tibav", METHODS, "method"), seen, 0)
    assert off(ours, expected[None]) <= 2e-4 * np.ptp(expected)  # relevance.STEADY moves it that much


REFERENCES = cases("methods", METHODS, "REFERENCES")
MASKED = ["rise(masks=40,cells=5,p=0.4)", "glas(k=4)", "glas_light(k=4)", "glas_shadow(k=4)", "rglas(k=4,rounds=3)"]


@pytest.mark.parametrize("written", MASKED)
def test_masked_methods_are_their_formulas_on_a_trained_cnn(cnn, pixels, written):
    request = parse(written, METHODS, "method")

    def drawn(backbone):
        where = scene(backbone, pixels, **ASKED)
        ours = engine.maps(request, where, 0)
        short = request.name != "rglas" and request.name.startswith("glas")
        return upsample(ours, where.size, METHODS[request.name].render(request.args)) if short else ours

    slow = masked.Slow(cnn[1], scene(cnn[0], pixels, **ASKED), 0, 0, HALF, HALF)
    agree(drawn, cnn[0], REFERENCES[written](slow)[None], draws=1, wide=(cnn[2],))


def test_opti_cam_is_its_formula_on_a_trained_cnn(cnn, pixels):
    steps = 12
    slow = optimised.Slow(*cnn[:2], pixels, 0, "predicted")
    expected, met = optimised.reference_opti_cam(slow, steps, "mask", "range", slow.g)
    same(f"opti_cam(steps={steps})", cnn, pixels, expected[None])
    assert max(met) > met[0] + 0.1, "it has gone somewhere"


def test_mask_is_its_formula_on_a_trained_cnn(cnn, pixels):
    """In double precision: of 64 cells most are about nothing in the image, and Adam, which divides a gradient by its own size, makes
    a whole step of what rounding leaves of a small one."""
    slow = optimised.Slow(*cnn[:2], pixels, 0, "predicted")
    expected = optimised.reference_mask(slow, 0, 5, 4, torch.ones(8, 8))
    same("mask(steps=5,cells=8,away=4.0,soft=2.0,area=0.001,start=ones)", cnn, pixels, expected[None], draws=0)


def test_extremal_is_its_formula_on_a_trained_cnn(cnn, pixels):
    slow = optimised.Slow(*cnn[:2], pixels, 0, "predicted")
    expected = optimised.reference_extremal(slow, 8, 0.3)
    same("extremal(steps=8,areas=0.3,sigma=6,away=5)", cnn, pixels, expected[None])


def test_gradients_are_captum_s_on_a_trained_cnn(cnn, pixels, seen):
    from captum.attr import IntegratedGradients, Saliency

    x, c = seen
    theirs = Saliency(cnn[1]).attribute(x, c).amax(1)
    same("gradient", cnn, pixels, theirs)
    written = "integrated_gradients(steps=10,norm=minmax)"
    theirs = IntegratedGradients(cnn[1]).attribute(x, target=c, n_steps=10, method="gausslegendre", internal_batch_size=8).sum(1).detach()
    same(written, cnn, pixels, theirs)


def test_gradient_shap_is_captum_s_on_a_trained_cnn(cnn, pixels, seen, monkeypatch):
    from captum.attr import GradientShap

    x, c = seen
    baselines = captum_draws_ours(monkeypatch, len("gradient_shap"), SIDE, 8)
    stdev = 0.09 * (x.max() - x.min()).item()
    theirs = GradientShap(cnn[1]).attribute(x, baselines.double(), n_samples=8, stdevs=stdev, target=c).sum(1).relu().detach()
    same("gradient_shap(samples=8)", cnn, pixels, theirs)


class Clipped(nn.ReLU):
    """A ReLU6 that captum, which looks for nn.ReLU, takes for a rectifier."""

    def forward(self, x):
        return x.clamp(0, 6)


def test_deconvnet_is_captum_s_on_a_trained_cnn(cnn, pixels, seen):
    from captum.attr import Deconvolution

    network, met = copy.deepcopy(cnn[1]), 0
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, Clipped())
                met += 1
    assert met == 35
    same("deconvnet", cnn, pixels, Deconvolution(network).attribute(*seen).abs().amax(1))


def test_occlusion_is_captum_s_on_a_trained_cnn(cnn, pixels, seen):
    from captum.attr import Occlusion

    x, c = seen
    with Double():  # captum adds up in single precision whatever it is given
        theirs = Occlusion(lambda x: cnn[1](x).softmax(1)).attribute(x, (3, 32, 32), (3, 16, 16), baselines=0, target=c)
    same("occlusion(window=32,stride=16)", cnn, pixels, theirs[:, 0])


def test_lime_is_captum_s_on_a_trained_cnn(cnn, pixels, seen, monkeypatch):
    """captum tosses its coins by torch.bernoulli, one copy at a time; here they fall as ours did, so nothing is left to chance."""
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    backbone, network, wide = cnn
    x, c = seen
    with Double():
        masks = masks_of(Segments(60, 4, 200.0, 0.2), scene(wide, pixels, **ASKED))
    coins = iter(masks.geometry.bits[0])
    monkeypatch.setattr(torch, "bernoulli", lambda p: next(coins).float()[None])

    def similarity(original, perturbed, bits, **rest):
        distance = 1 - torch.nn.functional.cosine_similarity(bits.double(), torch.ones_like(bits.double())).item()
        return np.sqrt(np.exp(-(distance**2) / 0.25**2))

    with Double():
        said = Lime(lambda x: network(x).softmax(1), SkLearnRidge(alpha=1), similarity).attribute(
            x,
            backbone.prepare.normalise(masks.fill.double()),
            c,
            feature_mask=masks.geometry.labels[0].expand(1, 3, -1, -1),
            n_samples=60,
            perturbations_per_eval=10,
        )
    assert masks.geometry.number > 10
    same("lime(samples=60)", cnn, pixels, said[:, 0].relu())
