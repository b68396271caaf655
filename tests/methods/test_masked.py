"""Methods that ask about masked copies, against their formulas in double precision: one image, one mask, one pass at a time."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pipeline
from pipeline import backbones, engine
from pipeline.engine import budget
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import run_forward
from pipeline.engine.masks import masks_of
from pipeline.engine.runners import masked
from pipeline.families import Bernoulli, Copies, Masked, Segments, Windows
from pipeline.maps.render import unit, upsample
from pipeline.methods import METHODS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests import tiny
from tests.conditioning import Double, agree, doubled, off, rounding, widened
from tests.entries import cases, missing
from tests.real import real_picture
from tests.references.masked import MEAN, STD, Slow
from tests.scenes import scene_of

SIZE, IMAGES = 32, 3


NETWORKS = {"linear head": tiny.sharp, "curved head": tiny.sharp_curved}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request):
    """A backbone, and the same network in double precision."""
    build = NETWORKS[request.param]
    args = {"mean": f"{MEAN},{MEAN},{MEAN}", "std": f"{STD},{STD},{STD}"}
    return backbones.load(f"tests.tiny:{build.__name__}", args=args, image_size=SIZE), build().eval().double()


@pytest.fixture(scope="module")
def pixels():
    """Blots of colour, so that superpixels and masks have something to find."""
    draws = torch.Generator().manual_seed(3)
    coarse = F.interpolate(torch.rand(IMAGES, 3, 5, 5, generator=draws), (SIZE, SIZE), mode="bilinear")
    return ((coarse + 0.1 * torch.rand(coarse.shape, generator=draws)) / 1.1 * 255).to(torch.uint8)


def ours(written, scene, target=0):
    return engine.maps(parse(written, METHODS, "method"), scene, target)


MASKED = [name for name, method in METHODS.items() if method.family == "masked"]
REFERENCES, COSTS = cases("methods", MASKED, "REFERENCES"), cases("methods", MASKED, "PASSES")


def test_every_masked_method_has_a_reference_and_a_cost():
    assert not [*missing("methods", MASKED, ["REFERENCES", "PASSES"])]


@pytest.mark.parametrize("written", sorted(REFERENCES))
def test_maps_are_the_formulas_in_double_precision(network, pixels, written):
    backbone, double = network
    request, spans = parse(written, METHODS, "method"), []
    with Double():
        exact = scene_of(widened(backbone), pixels)  # its directions are not rounded to single precision
    for target in (0, 1):

        def drawn(backbone, target=target):
            scene = scene_of(backbone, pixels)
            found = ours(written, scene, target)
            return upsample(found, scene.size, METHODS[request.name].render(request.args)) if request.name.startswith("glas") else found

        expected = torch.stack([REFERENCES[written](Slow(double, exact, image, target)) for image in range(IMAGES)])
        spans.append(expected.amax((1, 2)) - expected.amin((1, 2)))
        agree(drawn, backbone, expected)
    assert max(span.max() for span in spans) > 1e-5, "rectified maps may be flat, but not all of them"


@pytest.mark.parametrize("written", sorted(REFERENCES))
def test_a_map_depends_on_nothing_but_its_image(network, pixels, written):
    """Neither on the batch, nor on the budget, nor on what else is asked, and it repeats bit for bit."""
    scene = scene_of(network[0], pixels)
    whole = [ours(written, scene, target) for target in (0, 1)]
    alone = [torch.cat([ours(written, scene_of(network[0], pixels, part=slice(i, i + 1)), t) for i in range(IMAGES)]) for t in (0, 1)]
    tight = scene_of(network[0], pixels)
    budget.budget_of(tight, parse(written, METHODS, "method").alias).rows = 7
    wide = widened(network[0])
    for target in (0, 1):
        slack = rounding(lambda target=target: ours(written, scene_of(wide, pixels), target), draws=1)[1]  # of each of two
        assert (off(whole[target], alone[target]) <= 2 * slack).all()
        assert (off(whole[target], ours(written, tight, target)) <= 2 * slack).all()
        only = scene_of(network[0], pixels, targets=[("label", "finer")[target]])
        assert torch.equal(ours(written, only), whole[target])


def test_rise_follows_the_run_seed_and_lime_each_image_seed(network, pixels):
    def run(written, **how):
        return ours(written, scene_of(network[0], pixels, **how))

    assert not torch.equal(run("rise(masks=20)"), run("rise(masks=20)", seed=1))
    assert not torch.equal(run("rise(masks=20)"), run("rise(masks=21)"))
    assert METHODS["rise"].seeded
    assert METHODS["lime"].seeded
    assert not METHODS["glas"].seeded
    shifted = replace(scene_of(network[0], pixels), seeds=lambda name: [9, 8, 7])
    assert not torch.equal(run("lime(samples=40,kernel=2)"), ours("lime(samples=40,kernel=2)", shifted))


class Counted:
    """A backbone that counts the rows of every pass, and runs out of memory above `most` of them."""

    def __init__(self, backbone, most=10**9):
        self.backbone, self.most, self.rows, self.heads, self.largest = backbone, most, 0, 0, 0

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def logits(self, x):
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        self.rows, self.largest = self.rows + len(x), max(self.largest, len(x))
        return self.backbone.logits(x)

    def head(self, A, rest):
        self.heads += len(A)
        return self.backbone.head(A, rest)


def counted(network, pixels, most=10**9):
    scene = scene_of(network[0], pixels)
    counter = Counted(network[0], most)
    return replace(scene, forward=replace(scene.forward, backbone=counter)), counter


@pytest.mark.parametrize("written", sorted(COSTS))
def test_passes_spent_are_those_of_the_cost_model_whatever_the_targets(network, pixels, written):
    scene, counter = counted(network, pixels)
    for target in (0, 1):
        ours(written, scene, target)
    rows, heads = COSTS[written]
    if network[0].pooled_linear is not None:
        heads = 0
    assert (counter.rows, counter.heads) == (IMAGES * rows, IMAGES * heads)
    assert counter.largest <= budget.ROWS["forward"]["cpu"]
    name = written.partition("(")[0]
    assert (scene.tally[name, "forwards"], scene.tally[name, "heads"]) == (counter.rows, counter.heads)


def test_rglas_costs_a_sweep_a_round_and_a_pass_between_rounds_for_each_target(network, pixels):
    scene, counter = counted(network, pixels)
    ours("rglas(k=4,rounds=1)", scene)
    assert counter.rows == IMAGES * 2 * 16
    ours("rglas(k=4,rounds=3,t2=1e9)", scene)
    assert counter.rows <= IMAGES * (2 * 16 + 3 * 2 * 16 + 2)
    assert scene.tally["rglas", "forwards"] == counter.rows


def test_glas_glas_light_and_glas_shadow_share_one_sweep(network, pixels):
    scene, counter = counted(network, pixels)
    for written, target in itertools.product(["glas_light(k=5)", "glas(k=5)", "glas_shadow(k=5)"], (0, 1)):
        ours(written, scene, target)
    assert counter.rows == IMAGES * 2 * 25


def test_out_of_memory_halves_the_budget_and_changes_nothing_else(network, pixels):
    calm, _ = counted(network, pixels)
    scene, counter = counted(network, pixels, most=10)
    wide = widened(network[0])
    slack = rounding(lambda: ours("glas(k=5)", scene_of(wide, pixels)))[1]
    assert (off(ours("glas(k=5)", scene), ours("glas(k=5)", calm)) <= 2 * slack).all()
    assert counter.rows == IMAGES * 50
    assert counter.largest == 8
    assert budget.budget_of(scene, "glas").rows == 8
    assert scene.tally["glas", "forwards"] == counter.rows
    with pytest.raises(torch.cuda.OutOfMemoryError):
        ours("glas(k=5)", counted(network, pixels, most=0)[0])


def test_no_more_copies_than_the_budget_are_painted_at_once(network, pixels):
    scene, painted = scene_of(network[0], pixels), []
    code = Bernoulli(200, 7, 0.5)
    bank = masks_of(code, scene)
    scene._cache["masks", code] = replace(bank, paint=lambda which, images: painted.append(len(which)) or bank.paint(which, images))
    ours("rise(masks=200)", scene)
    assert max(painted) <= budget.ROWS["forward"]["cpu"]
    # each pass paints a mask once for all three images
    assert sum(painted) <= 200 * 2 + IMAGES * 200 / budget.ROWS["forward"]["cpu"]


@pytest.mark.parametrize("how", ["gaussian:3", "gaussian:1.5:norm"])
@pytest.mark.parametrize("size", [(30, 30), (20, 36)])
def test_a_gaussian_drawing_is_its_double_sum(how, size):
    maps = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    sigma = float(how.split(":")[1]) * min(size) / 15
    drawn = upsample(maps, size, how)
    for y, x in itertools.product(range(0, size[0], 7), range(0, size[1], 5)):
        kernel = torch.tensor(
            [
                [
                    np.exp(-((y + 0.5 - (i + 0.5) * size[0] / 4) ** 2 + (x + 0.5 - (j + 0.5) * size[1] / 6) ** 2) / sigma**2)
                    for j in range(6)
                ]
                for i in range(4)
            ]
        )
        expected = (maps * kernel).sum((1, 2)) / (kernel.sum() if how.endswith("norm") else 24)
        torch.testing.assert_close(drawn[:, y, x], expected)


def test_a_gaussian_drawing_with_its_norm_keeps_a_constant_map_constant():
    drawn = upsample(torch.full((1, 5, 5), 0.7), (40, 40), "gaussian:3:norm")
    torch.testing.assert_close(drawn, torch.full((1, 40, 40), 0.7))


def test_of_a_constant_answer_glas_shows_a_flat_top_that_falls_off_at_the_border():
    """Kernels of three cells. By the integral, which the sum is the midpoint rule of: all of it well inside, half at an edge, a quarter in a corner."""
    S = upsample(torch.ones(1, 15, 15), (224, 224), "gaussian:3")[0].numpy()

    def along(cells):
        return 3 * math.sqrt(math.pi) * (math.erf(cells / 3) + math.erf((15 - cells) / 3)) / 2

    for y, x in itertools.product((0.5, 56.5, 112.5, 223.5), repeat=2):
        assert S[int(y), int(x)] == pytest.approx(along(y * 15 / 224) * along(x * 15 / 224) / 225, rel=0.01)
    assert np.ptp(S[100:124, 100:124]) < 0.002 * S[112, 112]
    assert S[0, 0] / S[112, 112] == pytest.approx(0.25, abs=0.02) and S[0, 112] / S[112, 112] == pytest.approx(0.5, abs=0.02)
    assert (unit(S)[0, 0], unit(S).max()) == (0, 1), "min-max does not hide it"
    assert np.ptp(upsample(torch.ones(1, 15, 15), (224, 224), "gaussian:3:norm").numpy()) < 1e-5


def test_a_preset_is_about_settings_that_there_are():
    with pytest.raises(Refusal, match=r"presets of \['sgima'\]; its settings are \['fill', 'sigma'\]"):
        Masked("new", lambda clean, *, sigma=3.0: clean.prob, presets={"wide": {"sgima": 6.0}})
    made = Masked("new", lambda clean, *, sigma=3.0: clean.prob, presets={"wide": {"sigma": 6.0}, "usual": {}})
    assert made.presets == {"wide": {"sigma": 6.0}, "usual": {"sigma": 3.0}}


def test_occlusion_of_a_linear_model_is_the_mean_box_sum(network, pixels):
    """p(m) = sum_j a_j m_j: what a window takes away is its sum of a."""
    with Double():
        scene, code = scene_of(widened(network[0]), pixels), Windows(8, 4)
        masks, a = masks_of(code, scene), torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        said = Copies(None, (masks.paint(torch.arange(49), None) * a).sum((1, 2))[None], geometry=masks.geometry)
        found = METHODS["occlusion"].map(Copies(None, a.sum()[None]), said, window=8, stride=4)[0]
        sums, ones = F.avg_pool2d(a[None, None], 8, 4, divisor_override=1), torch.ones(1, 1, 8, 8)
        expected = F.conv_transpose2d(sums, ones, stride=4) / F.conv_transpose2d(torch.ones_like(sums), ones, stride=4)
    torch.testing.assert_close(found, expected[0, 0])


def test_score_cam_weighs_channels_by_a_softmax_that_the_baseline_does_not_move():
    A, u = torch.rand(1, 3, 2, 2), torch.tensor([[1.0, 2.0, 4.0]])
    found = METHODS["score_cam"].map(A, Copies(u, None), None)
    e = np.exp([1.0, 2.0, 4.0])
    expected = sum(w * A[0, k] for k, w in enumerate(e / e.sum()))
    torch.testing.assert_close(found[0], expected.float())
    torch.testing.assert_close(METHODS["score_cam"].map(A, Copies(u - 7, None), None), found)


def test_ablation_cam_does_not_turn_over_where_the_logit_is_negative():
    A, drops = torch.rand(1, 2, 3, 3), torch.tensor([[0.5, 0.25]])
    up, down = (METHODS["ablation_cam"].map(A, Copies(torch.tensor([y]), None), drops) for y in (2.0, -2.0))
    torch.testing.assert_close(up, (0.25 * A[:, 0] + 0.125 * A[:, 1]))
    assert torch.equal(up, down)


def test_mean_fill_is_what_multiplying_the_normalised_tensor_comes_to(network, pixels):
    def found(backbone):
        scene = scene_of(backbone, pixels)
        return masked.score_copies(scene, masks_of(Bernoulli(10, 4, 0.5), scene), [scene.targets[0].directions[:, 0]], "mean")[0].logit

    scene = scene_of(network[0], pixels)
    with Double():
        masks = masks_of(Bernoulli(10, 4, 0.5), scene).paint(torch.arange(10), None)
    direction = scene.targets[0].directions[:, 0].double()
    x = doubled(network[0], pixels)
    agree(found, network[0], torch.stack([(network[1](x * mask) * direction).sum(1) for mask in masks], 1))


@pytest.mark.parametrize(("fill", "colour"), [("black", 0.0), ("mean", MEAN), ("0.75", 0.75)])
def test_fills_of_one_colour(network, pixels, fill, colour):
    assert (fill_of(fill, pixels / 255, network[0].prepare) - colour).abs().max() < 1e-6


def test_blur_keeps_a_flat_image_and_removes_detail(network):
    flat = torch.full((1, 3, SIZE, SIZE), 0.3)
    torch.testing.assert_close(fill_of("blur", flat, network[0].prepare), flat)
    checks = (torch.arange(SIZE)[:, None] + torch.arange(SIZE)).remainder(2).float().expand(1, 3, -1, -1)
    assert (fill_of("blur", checks, network[0].prepare) - 0.5).abs().max() < 0.1


def test_what_a_superpixel_hides_shows_its_mean_colour(network, pixels):
    scene = scene_of(network[0], pixels)
    masks = masks_of(Segments(8, 2, 200.0, 0.2), scene)
    for image, (labels, colours) in enumerate(zip(masks.geometry.labels, masks.fill, strict=True)):
        for segment in labels.unique():
            inside = pixels_of(scene)[image][:, labels == segment]
            torch.testing.assert_close(colours[:, labels == segment], inside.mean(1, keepdim=True).expand_as(inside))
        assert masks.paint(torch.tensor([0]), torch.tensor([image])).eq(1).all()


@pytest.mark.parametrize("target", ["finer(aggregation=max_pre)", "finer(aggregation=mean_post)", "finer(weighting=prob)"])
def test_targets_that_are_not_one_scalar_are_for_the_cam_family(network, pixels, target):
    with pytest.raises(Refusal, match="rise.*finer.*CAM family") as told:
        pipeline.explain(pixels.numpy(), [0, 1, 2], network[0], ["rise(masks=4)"], [target])
    assert "\n" not in str(told.value)
    tables = pipeline.explain(pixels.numpy(), [0, 1, 2], network[0], ["family:masked", "grad_cam"], [target])
    assert set(tables["maps"]["method"].to_pylist()) == {"grad_cam"}
    assert tables["errors"].num_rows == 0


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("occlusion(window=40)", "40 pixels is larger"),
        ("rise(fill=pink)", "black, mean, min, blur"),
        ("rise(fill=2)", "0 to 1"),
        ("rise(masks=0)", "rise.masks is 0; it must be at least 1"),
        ("glas(k=0)", "glas.k is 0; it must be at least 1"),
        ("glas(preset=cub)", "fine, ilsvrc"),
        ("lime(samples=0)", "lime.samples is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(network, pixels, written, told):
    with pytest.raises(Refusal, match=told):
        pipeline.explain(pixels.numpy(), [0, 1, 2], network[0], [written])


def test_sigmoid_networks_are_asked_by_their_sigmoid(network, pixels):
    def found(backbone):
        return ours("occlusion(window=8,stride=5)", scene_of(backbone, pixels, activation="sigmoid"))

    expected = []
    for image in range(IMAGES):
        slow = Slow(network[1], scene_of(network[0], pixels, activation="sigmoid"), image, 0)
        slow.p = lambda x, slow=slow: float(slow.direction @ slow.logits(x).sigmoid())
        expected.append(REFERENCES["occlusion(window=8,stride=5)"](slow))
    agree(found, network[0], torch.stack(expected))


def test_half_precision_moves_maps_a_little(network, pixels):
    plain = ours("rise(masks=30)", scene_of(network[0], pixels))
    half = ours("rise(masks=30)", scene_of(network[0], pixels, precision="bf16"))
    assert 0 < (plain - half).abs().max() < 0.05


class Hooked(torch.nn.Module):
    """The network the grad-cam package and captum see: it takes normalised images."""

    def __init__(self, double):
        super().__init__()
        self.features, self.rest = double[:6].float(), double[6:].float()

    def forward(self, x):
        return self.rest(self.features(x))


@pytest.fixture
def hooked(network):
    network[1].float()
    yield Hooked(network[1])
    network[1].double()


def min_max(maps):
    return np.stack([unit(m) for m in maps])


# The package multiplies normalised images, which is fill=mean, and min-maxes before and after it enlarges the map. Its Score-CAM
# enlarges channels with their corner cells at the image's corners, ours by pixel centres; here it is given ours.
PACKAGE = {"ScoreCAM": "score_cam(fill=mean)", "AblationCAM": "ablation_cam"}


@pytest.mark.parametrize("name", sorted(PACKAGE))
def test_maps_agree_with_the_grad_cam_package(network, pixels, hooked, name, monkeypatch):
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", lambda size: torch.nn.Upsample(size, mode="bilinear"))
    scene = scene_of(network[0], pixels, ["predicted"])
    classes = [int(c) for c in scene.targets[0].class_id]
    with getattr(pytorch_grad_cam, name)(hooked, [hooked.features[-1]]) as cam:
        theirs = cam(network[0].prepare(pixels), [ClassifierOutputTarget(c) for c in classes])
    found = ours(PACKAGE[name], scene).numpy()
    found = min_max(scale_cam_image(scale_cam_image(found), (SIZE, SIZE)))
    np.testing.assert_allclose(found, min_max(theirs), atol=2e-3)


def test_occlusion_agrees_with_captum_where_windows_end_at_the_edge(network, pixels):
    from captum.attr import Occlusion

    backbone, double = network
    x, classes = doubled(backbone, pixels), scene_of(backbone, pixels).targets[0].class_id
    with Double():  # captum adds up in single precision whatever it is given
        attribution = Occlusion(lambda x: double(x).softmax(1)).attribute(x, (3, 8, 8), (3, 4, 4), baselines=0, target=classes)
    agree(lambda backbone: ours("occlusion(window=8,stride=4)", scene_of(backbone, pixels)), backbone, attribution[:, 0])


def test_lime_agrees_with_captum_within_its_sampling_error(network, pixels, hooked):
    """Both fit the same linear model to their own coin flips: they differ as much as two of our own seeds do."""
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    scene, code = scene_of(network[0], pixels, part=slice(0, 1)), "lime(samples=400,kernel=2)"
    masks = masks_of(Segments(400, 2, 200.0, 0.2), scene)
    labels = masks.geometry.labels[0]

    def similarity(original, perturbed, bits, **rest):
        distance = 1 - torch.nn.functional.cosine_similarity(bits.float(), torch.ones_like(bits.float())).item()
        return np.sqrt(np.exp(-(distance**2) / 0.25**2))

    prepare = network[0].prepare
    model = Lime(lambda x: hooked(x).softmax(1), SkLearnRidge(alpha=1), similarity)
    said = model.attribute(
        prepare(pixels[:1]),
        prepare.normalise(masks.fill),
        0,
        feature_mask=labels.expand(1, 3, -1, -1),
        n_samples=400,
        perturbations_per_eval=50,
    )
    theirs = said[0, 0].float().relu()
    found = ours(code, scene)[0]
    # the superpixels stay, the coins change
    again = replace(scene, seeds=lambda name: [77], _cache={})
    bits = torch.rand(masks.geometry.bits.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    paint = lambda which, images: bits[images, which].gather(1, labels.flatten()[None].expand(len(which), -1)).view(-1, SIZE, SIZE).float()  # noqa: E731
    again._cache["masks", Segments(400, 2, 200.0, 0.2)] = replace(masks, paint=paint, geometry=replace(masks.geometry, bits=bits))
    chance = (ours(code, again)[0] - found).square().mean().sqrt()
    assert 0 < (theirs - found).square().mean().sqrt() <= 3 * chance
    assert np.corrcoef(theirs.flatten(), found.flatten())[0, 1] > 0.9


REAL = {
    # fill and enlargement as above
    "ScoreCAM": ("timm/vit_tiny_patch16_224", "vit_tiny_patch16_224.imagenet", {}, "score_cam(fill=mean)", 224),
    # on a ViT the package puts min(A) - 1e7 in place of zero; with a ReLU before the head it ablates as the paper does
    "AblationCAM": ("timm/mobilenetv2_100", "mobilenetv2_100.imagenet", {"pad_type": "same"}, "ablation_cam", 128),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REAL))
def test_maps_agree_with_the_grad_cam_package_on_a_trained_network(realdata, name, monkeypatch):
    import pytorch_grad_cam
    import timm
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from safetensors.torch import load_file

    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", lambda size: torch.nn.Upsample(size, mode="bilinear"))
    arch, file, args, written, side = REAL[name]
    weights = str(realdata / "weights" / f"{file}.safetensors")
    backbone = backbones.load(arch, weights=weights, args={**args, "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"}, image_size=side)
    plain = timm.create_model(arch.removeprefix("timm/"), **args).eval()
    plain.load_state_dict(load_file(weights))
    picture = real_picture(realdata, side)
    seen = run_forward(backbone, backbone.prepare(picture))
    explained = TARGETS["predicted"].explain(Predictions(seen.logits, torch.tensor([-1])))
    found = ours(written, Batch(seen, (explained,), picture, None)).numpy()
    vit = hasattr(plain, "cls_token")
    layer = plain.blocks[-1].norm1 if vit else plain.bn2
    shape = (lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))) if vit else None
    with getattr(pytorch_grad_cam, name)(plain, [layer], reshape_transform=shape) as cam:
        theirs = cam(backbone.prepare(picture), [ClassifierOutputTarget(int(explained.class_id[0]))])
    found = min_max(scale_cam_image(scale_cam_image(found), (side, side)))
    assert np.corrcoef(found.ravel(), theirs.ravel())[0, 1] >= 0.999
