"""Numbers as their authors' code has them (docs/parity.md): each setting beside the rule of a release, written from its description, or beside
the library itself. Those of one family or metric stand beside its formula: `REFERENCES` of score_cam, rise, adcc and the other metrics
that dim an image, test_optimised and test_metrics.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pipeline
from jobs import explain
from pipeline import backbones, engine
from pipeline.classes.pairs import nearest
from pipeline.engine.masks import masks_of
from pipeline.engine.perturbed import refuse_metric
from pipeline.families import Bernoulli, Cam, Later, parameters
from pipeline.maps.average_precision import average_precision, by_value
from pipeline.maps.boxes import whole_pixels
from pipeline.maps.render import unit, upsample
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Positive, Refusal
from pipeline.sources.decode import decode
from pipeline.spec.grammar import parse, read_value
from pipeline.targets import TARGETS
from tests import tiny
from tests.jobs import job
from tests.methods.rise import mirrored
from tests.scenes import scene_of
from tests.shards import encoded, picture, tar_bytes
from tests.views import drawn, image_row, numbers, random_case

PAGE = (Path(__file__).parents[1] / "docs" / "parity.md").read_text()
REGISTRIES = {"method": METHODS, "target": TARGETS, "metric": METRICS}
LATER = [
    (kind, name, setting)
    for kind, table in REGISTRIES.items()
    for name, entry in table.items()
    for setting, parameter in entry.parameters.items()
    if parameter.later
]
OTHER = {  # another value of each setting that came later
    "align_corners": "true", "border": "mirror", "rectified": "true", "fill": "mean", "nearest": "opencv", "ties": "parts",
    "contours": "largest", "deltas": "0.5", "drawn": "bicubic",
}  # fmt: skip


# What came later


@pytest.mark.parametrize(("kind", "name", "setting"), LATER)
def test_a_setting_that_came_later_counts_once_it_is_set(kind, name, setting):
    table = REGISTRIES[kind]
    entry = table[name]
    plain = parse(name, table, kind)
    before = replace(plain, settings=tuple(pair for pair in plain.settings if pair[0] != setting))
    usual = parse(f"{name}({setting}={dict(plain.settings)[setting]})", table, kind) if setting != "deltas" else plain
    other = parse(f"{name}({setting}={'zero' if name == 'extremal' else OTHER[setting]})", table, kind)
    assert plain.identity(entry) == usual.identity(entry) == before.identity(entry)
    assert other.identity(entry)["settings"] == before.identity(entry)["settings"] | {setting: other.args[setting]}


def test_a_later_setting_is_read_as_any_other():
    def score(S, *, share: Later[Positive] = 0.5, plain: Later[bool] = False, first: float = 1.0): ...

    found = parameters(score)
    assert [found[name].later for name in ("share", "plain", "first")] == [True, True, False]
    assert found["share"].type == Positive and found["plain"].type is bool
    with pytest.raises(Refusal, match="share is -1; it must be"):
        read_value("-1", found["share"].type, "share")


def test_the_page_names_settings_that_there_are_and_all_that_came_later():
    written = re.findall(r"`([a-z_0-9]+)\(([a-z_]+=[^`]*)\)`", PAGE)
    assert len(written) > 10
    for name, arguments in written:
        table = next(table for table in REGISTRIES.values() if name in table)
        parse(f"{name}({arguments})", table, "choice")
    assert not {setting for _, _, setting in LATER} - {*re.findall(r"([a-z_]+)=", PAGE)}


# Maps


@pytest.mark.parametrize("target", ["label", "finer"])
@pytest.mark.parametrize("build", [tiny.sharp, tiny.sharp_curved])
def test_score_cam_is_the_grad_cam_package_s(build, target):
    """Its map to the end: channels enlarged with align_corners, the normalised image masked, the map drawn by OpenCV.

    It rounds scores of up to 30 to single precision, which is 2e-6 of them, before their softmax.
    """
    library = pytest.importorskip("pytorch_grad_cam")
    args = {"mean": "0.4,0.4,0.4", "std": "0.25,0.25,0.25"}
    backbone = backbones.load(f"tests.tiny:{build.__name__}", args=args, image_size=32)
    pixels = torch.from_numpy(np.stack([np.asarray(picture(seed, 32)) for seed in range(3)])).permute(0, 3, 1, 2)
    scene, network = scene_of(backbone, pixels, [target]), build().eval()

    def of(written):
        maps = engine.maps(parse(written, METHODS, "method"), scene, 0)
        return np.stack([unit(image) for image in upsample(maps, (32, 32), "bilinear").numpy()])

    targets = [lambda y, d=d: (d * y).sum() for d in scene.targets[0].directions[:, 0]]
    with library.ScoreCAM(network, [network[5]]) as score_cam:
        expected = score_cam(backbone.prepare(pixels), targets)
    np.testing.assert_allclose(of("score_cam(align_corners=true,fill=mean)"), expected, atol=2e-5)
    assert np.abs(of("score_cam(fill=mean)") - expected).max() > 1e-3, "so it is the corners"


@settings(max_examples=25, deadline=None)
@given(cells=st.tuples(st.integers(1, 16), st.integers(1, 16)), size=st.tuples(st.integers(16, 230), st.integers(16, 230)))
def test_a_bicubic_drawing_is_opencv_s(cells, size):
    import cv2

    maps = np.random.default_rng(0).random(cells)
    found = upsample(torch.from_numpy(maps)[None], size, METHODS["cam"].render(parse("cam(drawn=bicubic)", METHODS, "method").args))[0]
    np.testing.assert_allclose(found, cv2.resize(maps, size[::-1], interpolation=cv2.INTER_CUBIC), atol=1e-5)


def test_a_plugin_s_own_setting_of_that_name_stays_its_own():
    own = Cam("own", lambda A, *, drawn=0.5: drawn * A.sum(1))
    assert own.parameters["drawn"].default == 0.5 and own.render({"norm": "relu", "drawn": 0.25}) == "bilinear"


@settings(max_examples=25, deadline=None)
@given(cells=st.integers(1, 12), side=st.integers(8, 40), p=st.floats(0.1, 0.9))
def test_rise_s_masks_are_scikit_image_s(cells, side, p):
    """Every mask, cut from the grid that scikit-image enlarges with mirrored borders."""
    backbone = backbones.load("tests.tiny:build", image_size=side)
    scene = scene_of(backbone, torch.zeros(1, 3, side, side, dtype=torch.uint8), ["label"])
    banks = {border: masks_of(Bernoulli(3, cells, p, border), scene).paint(torch.arange(3), None) for border in ("repeat", "mirror")}
    step = -(-side // cells)
    generator = torch.Generator().manual_seed(_seed_of_bank(3, cells, p))
    grids = torch.rand(3, cells, cells, generator=generator) < p
    tops, lefts = (torch.randint(step, (3,), generator=generator) for _ in range(2))
    for mask, grid, top, left in zip(banks["mirror"], grids, tops, lefts, strict=True):
        large = mirrored(grid.double(), (cells + 1) * step)
        np.testing.assert_allclose(mask, large[top : top + side, left : left + side], atol=1e-5)


def _seed_of_bank(masks, cells, p):
    from pipeline.tables.identity import seed_of

    return seed_of(0, "bernoulli", masks, cells, p)


@pytest.mark.parametrize("name", [name for name, entry in METRICS.items() if "fill" in entry.parameters])
def test_a_fill_that_is_none_is_refused_before_anything_is_computed(name):
    backbone = backbones.load("tests.tiny:build", image_size=32)
    refuse_metric(parse(f"{name}(fill=0.5)", METRICS, "metric"), backbone)
    with pytest.raises(Refusal, match="fill is 'purple'; it must be black"):
        refuse_metric(parse(f"{name}(fill=purple)", METRICS, "metric"), backbone)


# Boxes and points on whole pixels


@pytest.mark.parametrize("side", [64, 224, 384])
def test_a_corner_on_a_whole_pixel_is_that_pixel_as_it_is_stored(side):
    """Every whole coordinate of every image of up to 1,000 pixels, stored to six decimals."""
    for width in range(50, 1001):
        x = np.arange(width + 1)
        stored = np.round(x / width, 6)
        assert np.array_equal(whole_pixels(np.stack([stored, stored], 1), (side, side))[:, 0], x * side // width)


def test_corners_and_points_on_whole_pixels_reach_the_metrics():
    """81 * 224 / 504 is 36, and stored to six decimals 35.99994."""
    at = round(81 / 504, 6)
    assert at * 224 < 36
    _, places = nearest({"tail": (at, 0.0), "back": (0.9, 0.0)}, (8, 224))
    assert places == ("tail", "back")
    codes, _ = nearest({"tail": (at, 0.0), "back": (round(83 / 504, 6), 0.0)}, (8, 224))  # pixels 36 and 36
    assert (codes == 1).all()
    S = np.zeros((224, 224), np.float32)
    S[36:72, 36:72] = 1
    hits = numbers("max_box_acc_v2(deltas=1.0)", [drawn(S, image_row((at, at, round(162 / 504, 6), round(162 / 504, 6))))])
    assert hits["max_box_acc_v2"] == 1, "the map's box is 36, 36, 72, 72 with its far edge outside, and so is the true one"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1999), st.integers(0, 1999)), min_size=1, max_size=5), st.integers(2000, 2900))
def test_whole_pixels_are_those_of_exact_arithmetic(points, width):
    stored = np.array([[round(x / width, 6), round(y / width, 6)] for x, y in points])
    exact = [[x * 224 // width, y * 224 // width] for x, y in points]
    assert whole_pixels(stored, (224, 224)).tolist() == exact


# PxAP


def histogram_ap(draws, edges):
    """The released evaluator's: histograms over all pixels between `edges`, precision times the gain of recall from the top."""
    truth, values = (np.concatenate([np.ravel(part) for part in parts]) for parts in zip(*draws, strict=True))
    on, off = (np.histogram(values[truth == sign], bins=edges)[0][::-1].cumsum() for sign in (True, False))
    recall, precision = on / on[-1], np.divide(on, on + off, out=np.zeros(len(on)), where=on + off > 0)
    return (precision * np.diff(recall, prepend=0)).sum()


@pytest.mark.parametrize("bins", [20, 1000])
def test_calm_s_thresholds_drop_what_lies_below_the_lowest(bins):
    """Maps like those behind a ReLU: a part of them far below the lowest threshold."""
    rng = np.random.default_rng(0)
    draws = [(rng.random((24, 24)) < 0.3, 10 ** rng.uniform(-12, 0, (24, 24))) for _ in range(3)]
    edges = [*(10 ** -np.arange(0, 7, 7 / bins)[::-1]), 1.0, 2.0, 3.0]
    counts = [by_value(values, truth, np.ones_like(truth), bins, "calm") for truth, values in draws]
    found = average_precision(*(sum(each[sign] for each in counts) for sign in ("positive", "negative")))
    assert found == pytest.approx(histogram_ap(draws, edges), rel=1e-12)
    kept = [by_value(values, truth, np.ones_like(truth), bins, "log") for truth, values in draws]
    assert sum(each[sign].sum() for each in kept for sign in each) == 3 * 24 * 24
    assert abs(average_precision(*(sum(each[sign] for each in kept) for sign in ("positive", "negative"))) - found) > 1e-3


def test_by_hand_what_is_dropped_would_have_counted():
    """Four pixels: .5 on the object, .25 off it, and below the lowest threshold one on it and one off it. With them 1/2 + 1/2 * 2/4."""
    values, on = np.array([[0.5, 0.25, 1e-9, 0.0]]), np.array([[True, False, True, False]])
    for thresholds, expected in {"log": 3 / 4, "calm": 1.0}.items():
        counts = by_value(values, on, np.ones_like(on), 1000, thresholds)
        assert average_precision(counts["positive"], counts["negative"]) == pytest.approx(expected)
    for name in ("pxap", "mpxap"):
        assert "calm" in str(METRICS[name].parameters["thresholds"].type)


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(st.integers(20, 700), st.integers(20, 700)), shown=st.tuples(st.integers(16, 300), st.integers(16, 300)))
def test_a_mask_as_opencv_takes_the_nearest_of_its_pixels(size, shown):
    import cv2

    mask = np.random.default_rng(size[0]).integers(0, 2, size, dtype=np.uint8)
    image = decode(encoded(Image.new("RGB", size[::-1])), shown)
    found = image.codes_opencv(encoded(Image.fromarray(mask)))
    assert np.array_equal(found, cv2.resize(mask, shown[::-1], interpolation=cv2.INTER_NEAREST))


def test_pxap_by_opencv_s_masks_is_the_released_evaluator_s(tmp_path):
    """A whole job over masks of odd sizes, beside OpenCV's masks and numpy's histograms; other jobs do not read them."""
    import cv2

    rng, masks, samples = np.random.default_rng(0), [], []
    for i, side in enumerate([75, 101, 133]):
        mask = (rng.random((side, side + 9)) < 0.3).astype(np.uint8)
        masks.append(mask)
        truth = {"label": i, "boxes": [[0.1, 0.1, 0.9, 0.9]]}
        members = {"png": encoded(picture(i).resize(mask.shape[::-1])), "json": json.dumps(truth).encode()}
        samples.append((f"x{i}", {**members, "mask.png": encoded(Image.fromarray(mask * 255))}))
    (tmp_path / "00000.tar").write_bytes(tar_bytes(samples))
    asked = {"methods": ("fake_cam",), "metrics": ("pxap", "released=pxap(nearest=opencv)"), "no_store": ()}
    explain.run(job(str(tmp_path / "00000.tar"), tmp_path / "out", **asked))
    found = {
        (each["metric"], each["method"]): each["mean"]
        for each in pipeline.tables.open(str(tmp_path / "out"), "default").sql("SELECT * FROM summary").to_pylist()
        if each["scope"] == "all"
    }
    fake = np.ones((64, 64))
    fake[0, 0] = 0
    edges = [*np.arange(0, 1, 0.001), 1.0, 2.0, 3.0]
    expected = histogram_ap([(cv2.resize(mask, (64, 64), interpolation=cv2.INTER_NEAREST) > 0, fake) for mask in masks], edges)
    assert found["released", "fake_cam"] == pytest.approx(expected, rel=1e-12)
    assert found["pxap", "fake_cam"] != pytest.approx(expected, rel=1e-3)


def test_masks_that_need_no_resizing_are_the_same_by_both_rules():
    mask = np.zeros((40, 48), np.uint8)
    mask[4:20, 6:30] = 255
    draws = [replace(random_case(seed), row=image_row(mask=mask)) for seed in range(3)]
    assert numbers("pxap(nearest=opencv)", draws)["pxap"] == numbers("pxap", draws)["pxap"]


# mPxAP


ORDER = ("head", "back", "belly", "breast", "tail", "leg", "wing")
POINTS = {  # CUB's points in its order; their parts
    "back": "back", "beak": "head", "belly": "belly", "breast": "breast", "left leg": "leg", "left wing": "wing",
    "right leg": "leg", "right wing": "wing", "tail": "tail",
}  # fmt: skip


def test_pixels_between_two_points_go_by_the_released_order_of_parts():
    """Point by point: the least distance, and of equals the part that comes first; by CUB's order a wing goes before the tail."""
    draws, moved = np.random.default_rng(0), 0
    for _, y, x in np.ndindex(6, 16, 16):
        if (y, x) == (0, 0):
            points = {name: tuple(draws.integers(0, 16, 2) / 16) for name in POINTS}
            codes, names = nearest(points, (16, 16), "parts")
            plain, plain_names = nearest(points, (16, 16))
        distances = {name: (x - 16 * px) ** 2 + (y - 16 * py) ** 2 for name, (px, py) in points.items()}
        least = {POINTS[name] for name, distance in distances.items() if distance == min(distances.values())}
        assert names[codes[y, x] - 1] == min(least, key=ORDER.index)
        moved += names[codes[y, x] - 1] != plain_names[plain[y, x] - 1]
    assert moved


def test_parts_of_the_user_s_own_come_last():
    points = {"horn": (0.0, 0.0), "wing": (0.5, 0.0), "tail": (0.0, 0.5)}
    assert nearest(points, (4, 4), "parts")[1] == ("tail", "wing", "horn")
    assert nearest(points, (4, 4))[1] == ("horn", "wing", "tail")


def test_every_release_that_was_run_has_its_heading():
    headings = {"grad-cam", "Finer-CAM", "Opti-CAM", "RISE", "TorchRay", "ADCC", "wsolevaluation", "CALM", "Transformer-Explainability"}
    assert headings <= {line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")}
