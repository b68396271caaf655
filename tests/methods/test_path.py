"""The path family: captum's numbers, theory's identities, and what every map must not leave behind."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from pipeline import backbones, engine
from pipeline.engine import budget
from pipeline.engine.runners import path
from pipeline.families import METHODS
from pipeline.methods.path.gradient_shap import gradient_shap
from pipeline.methods.path.integrated_gradients import integrated_gradients
from pipeline.methods.path.smooth_grad import smooth_grad
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from tests import tiny
from tests.conditioning import Double, agree, doubled, off, rounding, widened
from tests.entries import fact
from tests.scenes import Counted, captum_draws_ours, run, scene
from tests.untouched import maps_that_leave_nothing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
SIZE, IMAGES = 32, 5
PATHS = sorted(name for name, method in METHODS.items() if method.family == "path")


@pytest.fixture(scope="module")
def network():
    """In double precision, as captum takes it."""
    return tiny.build(curved=True).double().eval()


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("tests.tiny:curved", image_size=SIZE)


@pytest.fixture(scope="module")
def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8))


def same(written, backbone, pixels, expected, **how):
    """The method's maps are the expected ones [B h w] (conditioning.agree)."""
    agree(lambda backbone: run(written, backbone, pixels, **how), backbone, expected)


def test_gradient_is_captum_s_saliency(backbone, network, pixels):
    from captum.attr import Saliency

    same("gradient", backbone, pixels, Saliency(network).attribute(doubled(backbone, pixels), torch.arange(IMAGES) % 5).amax(1))


def test_deconvnet_is_captum_s_deconvolution_on_a_relu_network(backbone, network, pixels):
    from captum.attr import Deconvolution

    theirs = Deconvolution(network).attribute(doubled(backbone, pixels), torch.arange(IMAGES) % 5)
    same("deconvnet", backbone, pixels, theirs.abs().amax(1))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rectifier", ["relu", "relu6", "ReLU", "ReLU6", "hardtanh", "Tensor.relu", "relu_"])
def test_the_deconvnet_rule_meets_every_way_to_write_a_rectifier(rectifier, inplace):
    import torch.nn.functional as F

    ways = {
        "relu": lambda x: F.relu(x, inplace),
        "relu6": lambda x: F.relu6(x, inplace),
        "ReLU": torch.nn.ReLU(inplace),
        "ReLU6": torch.nn.ReLU6(inplace),
        "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0, inplace),
        "Tensor.relu": lambda x: x.relu(),
        "relu_": lambda x: x.relu_(),
    }
    x = torch.tensor([-1.0, 2.0, 3.0, 9.0], requires_grad=True)
    with path.Deconvolution() as rule:
        before = 1 * x
        after = ways[rectifier](before)
    top = 6.0 if rectifier in ("relu6", "ReLU6", "hardtanh") else 9.0
    assert after.tolist() == [0.0, 2.0, 3.0, top]
    assert rule.count == 1
    if (inplace and rectifier != "Tensor.relu") or rectifier == "relu_":
        assert before.tolist() == after.tolist()
    # forward signs play no part, gradients' signs do
    assert torch.autograd.grad(after, x, torch.tensor([1.0, -1.0, 2.0, 3.0]))[0].tolist() == [1.0, 0.0, 2.0, 3.0]
    assert torch.autograd.grad(ways[rectifier](1 * x).sum(), x)[0].tolist()[0] == 0.0


def test_a_hardtanh_that_is_no_relu6_keeps_its_gradient():
    x = torch.tensor([-2.0, 0.5], requires_grad=True)
    with path.Deconvolution() as rule:
        y = torch.nn.functional.hardtanh(x)
    assert rule.count == 0
    assert torch.autograd.grad(y, x, torch.tensor([1.0, -1.0]))[0].tolist() == [0.0, -1.0]


def test_deconvnet_is_refused_where_there_is_no_rectifier(backbone):
    vit = backbones.load("timm/test_vit", args={"pretrained": "false", "img_size": "32"}, image_size=32)
    assert "neither" in engine.misfit(parse("deconvnet", METHODS, "method"), vit)
    assert engine.misfit(parse("deconvnet", METHODS, "method"), backbone) is None
    assert engine.misfit(parse("gradient", METHODS, "method"), vit) is None
    assert "odd" in engine.misfit(parse("gradient(blur_ksize=4)", METHODS, "method"), vit)


@pytest.mark.parametrize("norm", ["minmax", "relu"])
def test_integrated_gradients_are_captum_s(backbone, network, pixels, norm):
    from captum.attr import IntegratedGradients

    attribute = IntegratedGradients(network).attribute
    theirs = attribute(doubled(backbone, pixels), target=torch.arange(IMAGES) % 5, n_steps=50, method="gausslegendre").sum(1)
    same(f"integrated_gradients(norm={norm})", backbone, pixels, theirs.relu() if norm == "relu" else theirs)


@pytest.mark.parametrize("target", ["label", "finer"])
def test_integrated_gradients_add_up_to_what_the_scalar_gains(backbone, pixels, target):
    where = scene(backbone, pixels, target)
    d = where.targets[0].directions[:, 0]
    gain = (d * (where.forward.logits - backbone.logits(torch.zeros(1, 3, SIZE, SIZE)))).sum(1).detach()
    maps = engine.maps(parse("integrated_gradients(norm=minmax,steps=300)", METHODS, "method"), where, 0)
    # the integrand jumps where a ReLU turns, so the quadrature's error falls like 1 / steps
    torch.testing.assert_close(maps.sum((1, 2)), gain, atol=0.01 * gain.abs().max().item(), rtol=0.01)


def test_calm_s_integrated_gradients_by_its_formula(backbone, network, pixels):
    x, d = doubled(backbone, pixels), torch.eye(5)[torch.arange(IMAGES) % 5]
    total = 0
    for t in range(51):
        point = (t / 50 * x).requires_grad_()
        total = total + torch.autograd.grad((d * network(point)).sum(), point)[0].abs().amax(1) / 50
    same("integrated_gradients(form=calm)", backbone, pixels, total)


def test_smooth_grad_and_var_grad_are_captum_s_noise_tunnel_on_the_same_noise(backbone, network, pixels, monkeypatch):
    """captum tunnels the gradient colour by colour; wrapped so that the magnitude goes through it, the moments are the same."""
    from captum.attr import NoiseTunnel, Saliency
    from captum.log import log_usage

    class Magnitude(Saliency):
        @log_usage()
        def attribute(self, inputs, **how):
            found = super().attribute(inputs, **how)
            return found.amax(1, keepdim=True).expand_as(found)

    samples = 16
    for i in range(IMAGES):
        x = doubled(backbone, pixels[i : i + 1])
        generator = torch.Generator().manual_seed(31 * i + len("smooth_grad"))
        noise = torch.stack([torch.randn(3, SIZE, SIZE, generator=generator) for _ in range(samples)])
        monkeypatch.setattr(torch, "normal", lambda mean, scale, noise=noise: noise * scale)
        how = {"nt_samples": samples, "stdevs": (x.max() - x.min()).item() / 4, "target": i % 5}
        for method, kind in (("smooth_grad", "smoothgrad"), ("var_grad", "vargrad")):
            theirs = NoiseTunnel(Magnitude(network)).attribute(x, nt_type=kind, **how)[:, 0]
            same(f"{method}(samples={samples})", backbone, pixels, theirs, ids=[i])


def test_without_noise_smooth_grad_is_the_gradient_and_var_grad_nothing(backbone, pixels):
    wide = widened(backbone)
    with Double():
        plain = run("gradient", wide, pixels)
    same("smooth_grad(spread=0)", backbone, pixels, plain)
    # of equal numbers a variance is their squares' rounding, in either precision
    for network, unit in ((wide, 2.0**-53), (backbone, 2.0**-24)):
        with Double() if network is wide else nullcontext():
            assert run("var_grad(spread=0)", network, pixels).max() <= 50 * unit * plain.max() ** 2


def test_gradient_shap_is_captum_s_on_the_same_draws(backbone, network, pixels, monkeypatch):
    from captum.attr import GradientShap

    samples = 20
    for i in range(IMAGES):
        x = doubled(backbone, pixels[i : i + 1])
        baselines = captum_draws_ours(monkeypatch, 31 * i + len("gradient_shap"), SIZE, samples)
        stdev = 0.09 * (x.max() - x.min()).item()
        theirs = GradientShap(network).attribute(x, baselines.double(), n_samples=samples, stdevs=stdev, target=i % 5)
        same("gradient_shap", backbone, pixels, theirs.sum(1).relu(), ids=[i])


def test_one_gradient_shap_baseline_in_21_is_the_mean_colour():
    x, drawn = torch.zeros(1, 3, 1, 1), iter(range(10**6))
    walk = gradient_shap(x, lambda: torch.ones_like(x), lambda: torch.tensor(next(drawn) // 2 % 21 / 21), samples=42, spread=0.0)
    assert sum(bool((weight == 0).all()) for _, weight in walk.points) == 2  # at b = x = 0 the weight x - b is zero


@pytest.mark.parametrize("method", PATHS)
def test_counted_passes_are_the_cost_model_s(backbone, pixels, method):
    counted = Counted(backbone)
    run(method, counted, pixels)
    cost = fact("methods", method, "COST")
    points = int(cost.partition("F")[0])
    assert cost == f"{points}F + {points}B"
    assert (counted.forwards, counted.backwards) == (IMAGES * points,) * 2


def test_smooth_grad_and_var_grad_share_one_walk_unless_their_settings_differ(backbone, pixels):
    counted = Counted(backbone)
    where = scene(counted, pixels)
    for written, walks in (("smooth_grad", 1), ("var_grad", 1), ("var_grad(samples=10)", 1.2), ("gradient", 1.22)):
        engine.maps(parse(written, METHODS, "method"), where, 0)
        assert counted.forwards == round(walks * 50 * IMAGES)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("method", PATHS)
def test_a_map_depends_neither_on_neighbours_nor_on_how_points_are_packed(backbone, pixels, method, rows, monkeypatch):
    whole = run(method, backbone, pixels)
    wide = widened(backbone)
    slack = rounding(lambda: run(method, wide, pixels))[1]
    monkeypatch.setitem(budget.ROWS["backward"], "cpu", rows)
    for other in (run(method, backbone, pixels), torch.cat([run(method, backbone, pixels, ids=[i]) for i in range(IMAGES)])):
        assert (off(other, whole) <= 2 * slack).all(), "each is within rounding of the exact one"


@pytest.mark.parametrize("method", PATHS)
def test_bits_repeat_and_follow_the_seed(backbone, pixels, method):
    first = run(method, backbone, pixels)
    assert torch.equal(first, run(method, backbone, pixels))
    assert torch.equal(first, run(method, backbone, pixels, seed=1)) is not METHODS[method].seeded


def test_no_more_than_a_pack_of_points_is_held(backbone, pixels, monkeypatch):
    monkeypatch.setitem(budget.ROWS["backward"], "cpu", 10)
    made, taken = [], []
    x = backbone.prepare(pixels)

    def points():
        for i in range(40):
            made.append(i)
            assert len(made) - len(taken) <= 10 // IMAGES
            yield x, 1.0

    def summand(gradient, weight):
        taken.append(1)
        return gradient.sum(1)

    path.sum_over_walk(path.Walk(points(), summand), scene(backbone, pixels), torch.ones(IMAGES, 5), "gradient", "")
    assert len(made) == len(taken) == 40


def test_blur_is_a_gaussian_of_the_given_size_and_none_by_default(backbone, pixels):
    from scipy.ndimage import correlate1d

    with Double():
        sharp = run("gradient", widened(backbone), pixels)
    kernel = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    kernel /= kernel.sum()
    expected = correlate1d(correlate1d(sharp.numpy(), kernel, 1, mode="nearest"), kernel, 2, mode="nearest")
    same("gradient(blur_ksize=5)", backbone, pixels, expected)
    assert torch.equal(run("gradient(blur_ksize=1)", backbone, pixels), run("gradient(blur_ksize=0)", backbone, pixels))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", PATHS)
def test_nothing_is_left_on_the_network(backbone, pixels, method, precision):
    assert (maps_that_leave_nothing(method, backbone, pixels, precision) >= 0).all()


def test_settings_are_read_from_the_command_line():
    request = parse("integrated_gradients(form=calm,steps=10)", METHODS, "method")
    assert request.args == {"blur_ksize": 0, "form": "calm", "norm": "relu", "steps": 10}
    with pytest.raises(Refusal, match="canonical"):
        parse("integrated_gradients(form=other)", METHODS, "method")


def test_methods_are_values_and_may_be_called_alone():
    x = torch.arange(12.0).view(1, 3, 2, 2)
    points = list(integrated_gradients(x, steps=2).points)
    assert len(points) == 2
    torch.testing.assert_close(sum(weight for _, weight in points), x)
    assert len(list(smooth_grad(x, lambda: torch.randn(1, 3, 2, 2), samples=7).points)) == 7
