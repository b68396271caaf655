"""The optimised family against slow references in double precision, one image at a time, written from the papers' formulas."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import backbones, engine
from pipeline.engine.blur import smoothed, spread
from pipeline.engine.forward import run_forward
from pipeline.families import METHODS
from pipeline.maps.render import upsample
from pipeline.methods.optimised import extremal as extremal_file
from pipeline.methods.optimised import mask as mask_file
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from tests import tiny
from tests.conditioning import Double, agree, off, rounding, widened
from tests.references.optimised import (
    Slow,
    blur_on_zeros,
    impulses,
    in_turn,
    reference_extremal,
    reference_mask,
    reference_opti_cam,
    slow_blur,
)
from tests.scenes import Counted, run, scene
from tests.untouched import maps_that_leave_nothing

SIZE, IMAGES = 32, 5


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("tests.tiny:lively", image_size=SIZE)


@pytest.fixture(scope="module")
def network():
    return tiny.lively().double().eval()


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((IMAGES, 3, 6, 6)))
    images = (
        F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1) * 235 + torch.from_numpy(rng.random((IMAGES, 3, SIZE, SIZE))) * 20
    )
    return images.to(torch.uint8)


def same(written, backbone, pixels, expected, target="label", **how):
    """The maps of all images are the references' [h w], one for each image (conditioning.agree)."""
    agree(lambda backbone: run(written, backbone, pixels, target), backbone, torch.stack(list(expected)), **how)


@pytest.mark.parametrize("normalisation", ["range", "max", "sigmoid"])
@pytest.mark.parametrize("objective", ["mask", "diff", "io_mask", "io_diff"])
def test_opti_cam_is_its_formula(backbone, network, pixels, objective, normalisation):
    each = (Slow(backbone, network, pixels, i) for i in range(IMAGES))
    expected = [reference_opti_cam(slow, 12, objective, normalisation, slow.g)[0] for slow in each]
    same(f"opti_cam(steps=12,objective={objective},normalisation={normalisation})", backbone, pixels, expected)


@pytest.mark.parametrize("target", ["finer", "reverse"])
@pytest.mark.parametrize("scalar", ["g", "margin"])
def test_opti_cam_explains_any_direction_by_logit_or_margin(backbone, network, pixels, target, scalar):
    each = (Slow(backbone, network, pixels, i, target) for i in range(IMAGES))
    expected = [reference_opti_cam(slow, 12, "mask", "range", getattr(slow, scalar))[0] for slow in each]
    same(f"opti_cam(steps=12,scalar={'logit' if scalar == 'g' else scalar})", backbone, pixels, expected, target)


def test_opti_cam_starts_at_the_channels_mean_and_never_ends_below_its_start(backbone, network, pixels):
    plain = run_forward(backbone, backbone.prepare(pixels)).A.mean(1)
    torch.testing.assert_close(run("opti_cam(steps=1)", backbone, pixels), plain)
    d = torch.eye(5)[torch.arange(IMAGES) % 5]

    def objective(maps):
        up = upsample(maps, (SIZE, SIZE), "bilinear")
        low, high = up.amin((1, 2), keepdim=True), up.amax((1, 2), keepdim=True)
        x = backbone.prepare.pixels(pixels) * ((up - low) / (high - low))[:, None]
        return (d * backbone.logits(backbone.prepare.normalise(x))).sum(1)

    start, short, long = (
        objective(maps) for maps in (plain, run("opti_cam(steps=10)", backbone, pixels), run("opti_cam", backbone, pixels))
    )
    assert (short >= start - 1e-6).all()
    assert (long >= short - 1e-6).all()
    assert (long > start + 0.01 * start.abs()).any()


def test_opti_cam_on_a_constant_combination_is_that_constant(backbone, pixels):
    where = scene(backbone, pixels)
    object.__setattr__(where.forward, "A", torch.ones_like(where.forward.A))
    torch.testing.assert_close(engine.maps(parse("opti_cam(steps=3)", METHODS, "method"), where, 0), torch.ones(IMAGES, *backbone.grid))


def test_blur_is_scipy_s_gaussian_with_repeated_borders(pixels):
    images = pixels.double() / 255
    for sigma in (0.7, 3.0, 20.0):
        torch.testing.assert_close(smoothed(images, sigma), slow_blur(images, sigma))
    assert torch.equal(smoothed(images, 0.0), images)


@pytest.mark.parametrize(("jitter", "target"), [(0, "predicted"), (4, "predicted"), (4, "finer")])
def test_mask_is_its_formula(backbone, network, pixels, jitter, target):
    settings = f"steps=10,cells=8,away=4.0,soft=2.0,area=0.001,jitter={jitter},start=ones"
    expected = [reference_mask(Slow(backbone, network, pixels, i, target), i, 10, jitter, torch.ones(8, 8)) for i in range(IMAGES)]
    same(f"mask({settings})", backbone, pixels, expected, target)
    assert sum(one.max() > 0.1 for one in expected) >= 2, "images that blurring only helps show nothing"


def test_mask_starts_at_the_smallest_disc_that_takes_99_percent(backbone, network, pixels):
    discs = mask_file.circles(pixels.float(), smoothed, 8, 35, 10.0).float()
    ours = 1 - run("mask(steps=1,lr=1e-30,cells=8,away=4.0,soft=2.0,start=circle)", backbone, pixels)
    for i in range(IMAGES):
        slow, scores = Slow(backbone, network, pixels, i), []
        blurred, soften = slow_blur(slow.x, 4.0), torch.from_numpy(impulses(2.0, SIZE))
        for disc in discs.double():
            up = soften @ F.interpolate(disc[None, None], (SIZE, SIZE), mode="bilinear")[0, 0] @ soften.T
            scores.append(slow.p(up * slow.x + (1 - up) * blurred).item())
        enough = [r for r, s in enumerate(scores) if (s - scores[-1]) / (scores[0] - scores[-1]) < 0.01]
        torch.testing.assert_close(ours[i], discs[enough[0]])


def test_discs_grow_from_nothing_and_are_soft(pixels):
    discs = mask_file.circles(torch.zeros(1, 3, 224, 224), smoothed, 28, 35, 10.0)
    assert (discs[0] == 1).all()
    assert (discs.flatten(1).sum(1).diff() <= 0).all()
    assert discs[-1].mean() < 0.1
    torch.testing.assert_close(discs, discs.flip(1), atol=1e-6, rtol=0)  # the blur is in single precision


@pytest.mark.parametrize("target", ["label", "finer"])
def test_extremal_is_its_formula(backbone, network, pixels, target):
    expected = [reference_extremal(Slow(backbone, network, pixels, i, target), 8, 0.3) for i in range(IMAGES)]
    same(
        "extremal(steps=8,areas=0.3,sigma=6,away=5)", backbone, pixels, expected, target, draws=12
    )  # a tie that falls the other way is rare


def test_extremal_on_zeros_blurs_the_normalised_image_as_the_released_code_does(backbone, network, pixels):
    normalise, unnormalise = backbone.prepare.normalise, backbone.prepare.unnormalise

    def blur(images, sigma):
        return unnormalise(blur_on_zeros(normalise(images), sigma))

    slows = [Slow(backbone, network, pixels, i) for i in range(IMAGES)]
    settings = {"blur": blur, "smooth": 0.09}
    expected = [reference_extremal(slow, 8, 0.3, **settings) for slow in slows]
    same("extremal(steps=8,areas=0.3,sigma=6,away=5,border=zero,smooth=0.09)", backbone, pixels, expected, draws=12)
    one = next(iter(slows)).x
    assert (blur(one, 5.0) - slow_blur(one, 5.0)).abs().max() > 0.05


def test_opti_cam_s_released_code_rectifies_what_it_combines(backbone, pixels):
    def explained(written, change):
        where = scene(backbone, pixels)
        object.__setattr__(where.forward, "A", change(where.forward.A))
        return engine.maps(parse(written, METHODS, "method"), where, 0)

    rectified = explained("opti_cam(steps=6,rectified=true)", lambda A: A - A.mean())
    assert torch.equal(rectified, explained("opti_cam(steps=6)", lambda A: (A - A.mean()).relu()))
    assert not torch.equal(rectified, explained("opti_cam(steps=6)", lambda A: A - A.mean()))


def test_extremal_s_ties_matter_at_its_plain_start_alone(backbone, network, pixels):
    """Eq. 7 sorts, and says nothing of ties. The mask starts as one plain, which an exact sort would order as rounding has it.

    Once three steps have given it a shape, sorting exactly changes the map by less than a thousandth of its range, nine steps on: in
    double precision, so that it is the ties that change it.
    """
    with Double():
        ours = run("extremal(steps=12,areas=0.3,sigma=6,away=5)", widened(backbone), pixels)
    for i in range(2):
        slow, plain = Slow(backbone, network, pixels, i), iter([in_turn] * 3)
        exact = reference_extremal(slow, 12, 0.3, order_of=lambda whole, plain=plain: next(plain, torch.argsort)(whole))
        assert (ours[i] - exact).abs().max() <= 1e-3 * (exact.max() - exact.min())
    # values between 0 and 1 that are taken for ties are within 1/4096 of each other, and so is what they are squared against
    masks = torch.rand(1, 1, 5000, generator=torch.Generator().manual_seed(0)).double()
    wanted = (torch.arange(5000) >= 3500).double()
    exact = (masks[0, 0].sort()[0] - wanted).square().mean()
    assert abs(extremal_file.off_area(masks, (0.3,))[0] - exact) <= 2 / 4096


def test_extremal_areas_are_optimised_apart_and_added(backbone, pixels):
    both = run("extremal(steps=6,areas=(0.1,0.4),sigma=6)", backbone, pixels)
    wide = widened(backbone)
    apart = [
        (run(written, backbone, pixels), rounding(lambda written=written: run(written, wide, pixels))[1])
        for written in ("extremal(steps=6,areas=0.1,sigma=6)", "extremal(steps=6,areas=0.4,sigma=6)")
    ]
    assert (off(both, sum(maps for maps, _ in apart)) <= 2 * sum(slack for _, slack in apart)).all()


def test_extremal_masks_grow_with_their_area(backbone, pixels):
    small, middle, large = (
        run(f"extremal(steps=150,areas={area},sigma=6,away=5)", backbone, pixels).mean((1, 2)) for area in (0.1, 0.4, 0.8)
    )
    assert (small < middle).all()
    assert (middle < large).all()


def test_one_open_cell_is_its_kernel(backbone):
    """A soft maximum at coldness 20 of one value v among 80 zeros is v e^20v / (e^20v + 80), v the kernel at its distance."""
    u = torch.zeros(1, 8, 8)
    u[0, 4, 4] = 1
    canvas = spread((56, 56), 7, 21, torch.device("cpu"))(u)[0]
    for y, x in ((28, 28), (28, 38), (20, 40), (45, 28)):
        v = math.exp(-2 * max(0, math.hypot(y - 28, x - 28) / 21 - 0.5) ** 2)
        expected = v * math.exp(20 * v) / (math.exp(20 * v) + 80)
        assert canvas[21 + y, 21 + x].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "forwards", "backwards"),
    [
        ("opti_cam(steps=9)", 9, 9),
        ("opti_cam(steps=9,objective=io_mask)", 18, 18),
        ("mask(steps=7,start=ones)", 7, 7),
        ("mask(steps=7)", 7 + 35, 7),
        ("extremal(steps=6)", 6, 6),
        ("extremal(steps=6,areas=(0.1,0.2,0.3))", 18, 18),
    ],
)
def test_counted_passes_are_the_cost_model_s(backbone, pixels, method, forwards, backwards):
    counted = Counted(backbone)
    run(method, counted, pixels)
    assert (counted.forwards, counted.backwards) == (IMAGES * forwards, IMAGES * backwards)


def test_an_image_that_has_stopped_costs_nothing_more_and_changes_nothing(backbone, network, pixels):
    """At a coarse tolerance images stop at different steps; the reference says at which."""
    tolerance, steps, stops, expected, counted = 2e-2, 40, [], [], Counted(backbone)
    written = f"opti_cam(steps={steps},tolerance={tolerance})"
    run(written, counted, pixels)
    for i in range(IMAGES):
        slow = Slow(backbone, network, pixels, i)
        met = reference_opti_cam(slow, steps, "mask", "range", slow.g)[1]
        stops.append(next((t + 1 for t in range(1, steps) if abs(met[t] - met[t - 1]) < tolerance), steps))
        expected.append(reference_opti_cam(slow, stops[-1], "mask", "range", slow.g)[0])
    same(written, backbone, pixels, expected)
    assert len(set(stops)) > 1, "the test wants images that stop apart"
    assert counted.forwards == sum(stops)


METHOD_SETTINGS = [
    "opti_cam(steps=40)",
    "opti_cam(steps=20,objective=io_diff,tolerance=0.01)",
    "mask(steps=20,cells=8)",
    "extremal(steps=10,sigma=6)",
]


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_a_map_does_not_depend_on_its_neighbours(backbone, pixels, method):
    whole = run(method, backbone, pixels)
    alone = torch.cat([run(method, backbone, pixels, ids=[i]) for i in range(IMAGES)])
    turned = run(method, backbone, pixels, ids=reversed(range(IMAGES))).flip(0)
    wide = widened(backbone)
    slack = rounding(lambda: run(method, wide, pixels))[1]
    for other in (alone, turned):
        assert (off(other, whole) <= 2 * slack).all(), "each is within rounding of the exact one"


def test_groups_change_nothing(backbone, pixels):
    many = list(range(IMAGES)) * 2
    twice = run("extremal(steps=4,sigma=6)", backbone, pixels, ids=many)  # ten images, eight at a time
    wide = widened(backbone)
    slack = rounding(lambda: run("extremal(steps=4,sigma=6)", wide, pixels))[1]
    assert (off(twice[IMAGES:], twice[:IMAGES]) <= 2 * slack).all()


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_bits_repeat_and_follow_the_seed(backbone, pixels, method):
    first = run(method, backbone, pixels)
    assert torch.equal(first, run(method, backbone, pixels))
    assert torch.equal(first, run(method, backbone, pixels, seed=1)) is not METHODS[method.partition("(")[0]].seeded


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_nothing_is_left_on_the_network(backbone, pixels, method, precision):
    maps_that_leave_nothing(method, backbone, pixels, precision)


def test_a_network_that_answers_nan_gives_nan_for_that_image_alone(backbone, pixels):
    @functools.wraps(backbone.logits)
    def broken(x):
        y = backbone.logits(x)
        return torch.where((torch.arange(len(x)) == 2)[:, None] & (len(x) == IMAGES), torch.nan, y)

    counted = Counted(backbone)
    counted.logits = broken
    finite = run("opti_cam(steps=1)", counted, pixels).isfinite().all((1, 2))
    assert finite.tolist() == [True, True, False, True, True]


def test_extremal_masks_are_blurred_by_a_share_of_the_side(backbone, pixels):
    plain = run("extremal(steps=2)", backbone, pixels)
    found = run("extremal(steps=2,smooth=0.09)", backbone, pixels)
    torch.testing.assert_close(found, smoothed(plain, 0.09 * SIZE))
    assert (found.amax((1, 2)) < plain.amax((1, 2))).all()


def test_settings_are_typed_and_refused_where_they_make_no_sense():
    request = parse("opti_cam(steps=50)", METHODS, "method")
    assert request.args["steps"] == 50
    assert parse("extremal(areas=(0.05,0.1))", METHODS, "method").args["areas"] == (0.05, 0.1)
    with pytest.raises(Refusal, match="mask.steps is 0; it must be at least 1"):
        parse("mask(steps=0)", METHODS, "method")
