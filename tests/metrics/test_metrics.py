"""What every metric owes, looped over the registry, and each against paper and pencil and against somebody else's code."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline import backbones
from pipeline.families import METRICS as REGISTRY
from pipeline.families import Boxed, Cam, Dimmed, Metric, Powered, metric
from pipeline.maps import boxes
from pipeline.maps.quantise import stored
from pipeline.maps.render import unit, upsample
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.metrics.analysis.selectivity import POWERS
from pipeline.refusal import Refusal
from pipeline.score import views
from pipeline.score.partials import add_score, totals
from pipeline.score.scoring import Score, score_map
from pipeline.score.views import MapView
from pipeline.spec.columns import FIXED
from pipeline.spec.explain_spec import CONTROLS, build_spec
from pipeline.spec.grammar import parse
from tests.conditioning import DOUBLE, Double, by_eight_bits, near, off, rounding, widened
from tests.entries import cases, fact, facts, files, missing
from tests.views import BOX, MAP, ODD, class_probs, drawn, image_row, numbers, random_case

# Worked out on paper for MAP and BOX: the map's sum is 3, 17/8 of it in the box, its mean 3/16; above the mean is one part of five
# pixels, columns 1-2 and rows 0-2, and one of a single pixel. What the network says is in `Toy` below.
HAND = cases("metrics", METRICS, "HAND")


@pytest.mark.parametrize("written", sorted(HAND))
def test_metrics_give_the_numbers_worked_out_by_hand(written):
    values = numbers(written, [drawn(MAP, image_row(BOX))])
    for name, expected in HAND[written].items():
        np.testing.assert_allclose(values[name], expected, **DOUBLE)


def test_every_metric_has_a_case_worked_out_by_hand_and_no_entry_is_left_over():
    assert not [*missing("metrics", {*METRICS} - {*facts("metrics", METRICS, "NO_HAND")}, ["HAND"])]
    assert files("metrics") == {*METRICS}, "an entry of tests/metrics belongs to no metric: remove it"
    assert {written.partition("(")[0] for written in HAND} == {*facts("metrics", METRICS, "HAND")}
    assert {case for cases in facts("metrics", METRICS, "SILENT").values() for case in cases} <= {*OWN_ODD}


def test_a_wrong_prediction_costs_the_official_metric_everything():
    assert numbers("official", [drawn(MAP, image_row(BOX), predicted=1)]) == {"official": 1}


def test_of_several_boxes_the_best_one_and_their_union_count():
    both = image_row((0, 0, 0.25, 0.25), (0.25, 0, 0.75, 0.75))  # the second is the map's own box
    assert numbers("loc_error", [drawn(MAP, both)]) == {"loc_error": 0}
    assert numbers("energy", [drawn(MAP, both)])["energy"] == near(2.625 / 3, 16)
    assert numbers("pointing_blob", [drawn(MAP, image_row((0, 0, 0.2, 0.2)))]) == {"pointing_blob": 0, "pointing_blob_small": 1}
    assert numbers("pointing_small", [drawn(MAP, image_row((0, 0, 0.2, 0.2)))]) == {"pointing_small": 0}
    assert numbers("pointing_small", [drawn(MAP, image_row((0.25, 0, 0.5, 0.5)))]) == {"pointing_small": 1}


WRITTEN = facts("metrics", METRICS, "ANY")
LOOPED = sorted({*METRICS} - {*facts("metrics", METRICS, "NO_HAND")})


def test_a_tie_of_probabilities_is_no_increase():
    same = class_probs([[0.5, 0.8]])
    answers = {
        Dimmed(): same,
        Boxed(): class_probs([[0.5, 0.8]] * 2),
        Boxed(dimmed=True): class_probs([[0.5, 0.8]] * 2),
        Powered(POWERS): class_probs([[0.5, 0.8]] * 10),
    }
    tied = MapView(MAP, "bilinear", MAP.shape, image_row(BOX), 0, same, answers)
    for name in ("ad", "ai", "ag", "bbox_study", "selectivity"):
        assert set(score_map(parse(name, METRICS, "metric"), tied).values.values()) == {0.0}


def test_removals_are_a_ratio_and_undefined_where_none_is_right_at_random():
    """Of label 0 the toy is right until half of the image is gone, and always at random; of label 1 from then on, and never at random."""
    zero, one = drawn(MAP, image_row(BOX)), drawn(MAP, image_row(BOX, label=1))
    values = numbers("remove_and_classify", [zero, zero, zero, one])
    assert [values[f"remove_and_classify_{k}"] for k in (10, 30, 50, 70, 90)] == near([1, 1, 1 / 3, 1 / 3, 1 / 3])
    assert {numbers("remove_and_classify", [one, one])[f"remove_and_classify_{k}"] for k in (10, 50, 90)} == {None}


def test_energy_counts_what_speaks_for_the_target():
    """Of a map with a sign: 1/2 of what is above zero lies in the box, whatever lies below."""
    signed = np.full((4, 4), -1.0, np.float32)
    signed[1, 1], signed[0, 0] = 3, 3
    assert numbers("energy", [drawn(signed, image_row(BOX))])["energy"] == near(1 / 2, 16)
    assert numbers("energy", [drawn(signed - 5, image_row(BOX))]) == "nothing in the map speaks for the target"


def test_a_share_of_the_pixels_is_a_whole_number_of_them():
    """As 5 % of 224 x 280 and of 112 x 70, which floating point makes one more."""
    for size, counts in {(224, 280): (3136, 6272), (112, 70): (392, 784), (224, 224): (2509, 5018), (3, 3): (1, 1)}.items():
        assert METRICS["rd"].resolve({"fill": "mean"}, size)["masked"].counts == counts


def test_a_box_is_cut_off_at_the_border():
    out, cut = image_row((-1, 0.25, 0.5, 3)), image_row((0, 0.25, 0.5, 1))
    for name in LOOPED:
        assert repr(numbers(name, [drawn(MAP, out)])) == repr(numbers(name, [drawn(MAP, cut)]))


UNBOXED = {name for name, entry in METRICS.items() if not entry.inputs & {"boxes", "inside", "positive", "truth"}}


OWN_ODD = ("no label", "a box between pixels", "a mask without an object", "a mask of what is neither")  # each metric says whether it minds


@pytest.mark.parametrize("name", LOOPED)
@pytest.mark.parametrize("odd", sorted(ODD))
def test_where_there_is_nothing_to_say_there_is_a_reason(name, odd):
    map, about, reason = ODD[odd]
    score = score_map(parse(WRITTEN.get(name, name), METRICS, "metric"), drawn(map, about, size=(4, 4)))
    assert score.error is None
    assert score.reason == (None if score.values else reason)
    silent = {
        **{case: {name for name in METRICS if case in fact("metrics", name, "SILENT", ())} for case in OWN_ODD},
        "a constant map": {name for name, entry in METRICS.items() if not entry.constant},
        "NaN": set(METRICS),
        "no map": set(METRICS),
    }
    assert (score.reason is not None) == (name in silent.get(odd, set(METRICS) - UNBOXED))


def test_a_metric_that_raises_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setitem(METRICS, "new", Metric("new", lambda S: {}["x"], {"new": "higher"}))
    score = score_map(parse("new", METRICS, "metric"), drawn(MAP, image_row(BOX)))
    assert isinstance(score.error, KeyError) and score.reason.startswith("KeyError")


@pytest.mark.parametrize("name", sorted(name for name, entry in METRICS.items() if not entry.perturbations))
def test_numbers_are_fractions_or_in_the_range_that_the_metric_states(name):
    low, high = fact("metrics", name, "RANGE", (0, 1))
    for seed in range(20):
        values = numbers(WRITTEN.get(name, name), [random_case(seed)])
        for column in METRICS[name].columns:
            assert low <= values[column] <= high


def test_energy_and_pointing_are_the_localisation_metrics_of_quantus(monkeypatch):
    """On maps with a sign, whose positive part reaches zero: Quantus takes no floor away. It calls any maximum in the mask a hit, as we do."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # numpy 2.4 has dropped the name Quantus 0.6 uses
    quantus = pytest.importorskip("quantus")
    draws = [random_case(seed) for seed in range(20)]
    signed = [replace(draw, map=(draw.map - 0.3).astype(np.float32)) for draw in draws]
    given = {
        "x_batch": np.zeros((20, 1, 40, 48)),
        "a_batch": np.stack([draw.raw.astype(np.float64) for draw in signed])[:, None],
        "s_batch": np.stack([draw.inside for draw in signed])[:, None],
    }
    how = {"abs": False, "normalise": False, "disable_warnings": True}
    shares = quantus.AttributionLocalisation(positive_attributions=True, **how).evaluate_batch(**given)
    shares = shares * (1 + 1e-9 / np.maximum(given["a_batch"], 0).sum((1, 2, 3)))  # which Quantus adds to the sum
    hits = quantus.PointingGame(**how).evaluate_batch(**given)
    assert [numbers("energy", [draw])["energy"] for draw in signed] == near(shares.tolist(), 40 * 48)
    assert [numbers("pointing", [draw])["pointing"] for draw in signed] == hits.tolist()
    assert 0 < sum(hits) < 20


def test_ranks_are_those_of_quantus_and_scikit_learn_on_maps_without_ties(monkeypatch):
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    quantus = pytest.importorskip("quantus")
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(3)
    draws = [drawn(rng.permutation(40 * 48).reshape(40, 48).astype(np.float32), random_case(seed).row) for seed in range(20)]
    given = {
        "x_batch": np.zeros((20, 1, 40, 48)),
        "a_batch": np.stack([draw.raw.astype(np.float64) for draw in draws])[:, None],
        "s_batch": np.stack([draw.inside for draw in draws])[:, None],
    }
    how = {"abs": False, "normalise": False, "disable_warnings": True}
    theirs = {
        "top_k(k=300)": quantus.TopKIntersection(k=300, **how).evaluate_batch(**given),
        "rank_accuracy": quantus.RelevanceRankAccuracy(**how).evaluate_batch(**given),
        "mass_accuracy": quantus.RelevanceMassAccuracy(**how).evaluate_batch(**given),
        "roc_auc": [roc_auc_score(draw.inside.ravel(), draw.S.ravel()) for draw in draws],
    }
    for written, expected in theirs.items():
        name = written.partition("(")[0]
        assert [numbers(written, [draw])[name] for draw in draws] == near(np.asarray(expected, np.float64).ravel().tolist(), 40 * 48)


@pytest.mark.parametrize("written", ["top_k(k=3)", "rank_accuracy", "roc_auc"])
def test_of_tied_pixels_the_mean_over_their_orders_counts(written):
    """The same pixels in every order that the ties leave open, and without ties."""
    map = np.array([[2, 1], [1, 1], [0, 2]], np.float32)
    about = image_row((0, 0, 0.5, 0.7))  # the first two of the left column
    orders = {places: sorted(range(6), key=lambda i, places=places: (map.ravel()[i], places[i])) for places in permutations(range(6))}
    values = []
    for order in orders.values():
        untied = np.empty(6, np.float32)
        untied[order] = range(6)
        values += numbers(written, [drawn(untied.reshape(3, 2), about)]).values()
    assert list(numbers(written, [drawn(map, about)]).values()) == near([np.mean(values)], len(values))


@pytest.mark.parametrize("name", [name for name in sorted(METRICS) if METRICS[name].corpus_level])
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(6)), cut=st.integers(0, 6))
def test_counts_added_in_any_order_and_split_are_those_of_the_whole(name, order, cut):
    choice = parse(f"{name}(step=0.1)" if "acc" in name else name, METRICS, "metric")
    scores = [score_map(choice, random_case(seed)) for seed in range(5)] + [Score(reason="no box")]
    whole, parts = {}, ({}, {})
    for score in scores:
        add_score(whole, score)
    for place, i in enumerate(order):
        add_score(parts[place < cut], scores[i])
    merged = {kind: parts[0].get(kind, 0) + parts[1].get(kind, 0) for kind in whole}
    assert all((merged[kind] == whole[kind]).all() and (whole[kind] == np.round(whole[kind])).all() for kind in whole)
    assert totals(choice, merged) == totals(choice, whole)
    assert (whole["n"], whole["n_null"], whole["null: no box"]) == (5, 1, 1)


def test_pxap_is_the_average_precision_of_a_sort_where_bins_are_fine_enough():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    draws = []
    for _ in range(4):
        map = (rng.integers(0, 97, (24, 24)) / 96).astype(np.float32)
        map[0, :2] = 0, 1
        draws.append(drawn(map, image_row((0.1, 0.2, 0.7, 0.6))))
    truth, values = (np.concatenate([getattr(draw, name).ravel() for draw in draws]) for name in ("inside", "S"))
    exact = average_precision_score(truth, values)
    assert numbers("pxap", draws)["pxap"] == near(exact, 4 * 24 * 24)
    assert abs(numbers("pxap(bins=20)", draws)["pxap"] - exact) < 0.02


def test_bins_cost_pxap_less_the_finer_they_are():
    """Maps of any values, 46,080 pixels: what the published bins leave of the sort's average precision."""
    from sklearn.metrics import average_precision_score

    draws = [random_case(seed) for seed in range(24)]
    truth, values = (np.concatenate([getattr(draw, name).ravel() for draw in draws]) for name in ("inside", "S"))
    exact = average_precision_score(truth, values)
    off = [abs(numbers(f"pxap(bins={bins})", draws)["pxap"] - exact) for bins in (20, 100, 1000)]
    assert off == sorted(off, reverse=True) and off[-1] < 5e-4


def test_pxap_of_a_perfect_map_is_one_and_of_a_flat_one_the_share_of_positive_pixels():
    on = boxes.pixels(np.array([BOX]), (12, 16))
    assert numbers("pxap", [drawn(on.astype(np.float32), image_row(BOX))])["pxap"] == 1
    sums = METRICS["pxap"].score(np.zeros((12, 16)), None, lambda nearest: (on, np.ones((12, 16), bool)))
    assert METRICS["pxap"].corpus_level(**sums) == near(on.mean())


def test_pxap_prefers_a_mask_to_the_boxes():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True
    assert numbers("pxap", [drawn(MAP, image_row(BOX, mask=mask))])["pxap"] == 1
    assert numbers("pxap", [drawn(MAP, image_row(mask=mask))])["pxap"] == 1
    assert numbers("energy", [drawn(MAP, image_row(mask=mask))]) == "no box"


def test_energy_of_a_uniform_map_is_the_area_share_and_pointing_at_one_always_hits():
    fake = np.ones((64, 64), np.float32)
    fake[0, 0] = 0
    for corners in [(0.1, 0.1, 0.4, 0.9), (0.5, 0.5, 0.53, 0.52)]:
        about = drawn(fake, image_row(corners), render="area")
        assert numbers("energy", [about])["energy"] == near(about.inside.sum() / (64**2 - 1), 64**2)
        assert numbers("pointing", [about]) == {"pointing": 1}


def test_contours_are_the_parts_of_a_mask_and_the_rims_of_its_holes():
    """Beside scikit-image: parts touch at corners too, holes at sides alone, and a rim lies one pixel around its hole."""
    from skimage.measure import label, regionprops

    def regions(mask, connectivity, grow=0):
        found = [region.bbox for region in regionprops(label(mask, connectivity=connectivity))]
        return sorted((x0 - grow, y0 - grow, x1 + grow, y1 + grow) for y0, x0, y1, x1 in found)

    draws = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.5, 0.7, 0.95):
        mask = draws.random((23, 31)) < share
        outside = label(np.pad(~mask, 1, constant_values=True), connectivity=1)
        inner = ~mask & (outside != outside[0, 0])[1:-1, 1:-1]
        outlines, rims = regions(mask, 2), regions(inner, 1, grow=1)
        assert sorted(map(tuple, boxes.parts(mask))) == outlines
        assert sorted(map(tuple, boxes.contour_boxes(mask))) == sorted([*outlines, *rims])
    assert boxes.contour_boxes(np.zeros((5, 5), bool)).shape == (0, 4)


def contour_hits(draws, step, deltas=(0.3, 0.5, 0.7), largest=False):
    """E15 with OpenCV's contours, one image, threshold, contour and box at a time; the first version kept the contour of the largest area."""
    import cv2

    correct = np.zeros((len(deltas), len(np.arange(0, 1, step))))
    for draw in draws:
        height, width = draw.size
        grey = (255 * draw.S).astype(np.uint8)
        for t, threshold in enumerate(np.arange(0, 1, step)):
            _, mask = cv2.threshold(grey, int(threshold * grey.max()), 255, cv2.THRESH_BINARY)
            best = 0
            contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            for contour in [max(contours, key=cv2.contourArea)] if largest else contours:
                x, y, w, h = cv2.boundingRect(contour)
                x1, y1 = min(x + w, width - 1), min(y + h, height - 1)
                for box in draw.boxes:
                    a, b, c, d = (int(side * n) for side, n in zip(box, (width, height) * 2, strict=True))
                    both = max(0, min(x1, c) - max(x, a) + 1) * max(0, min(y1, d) - max(y, b) + 1)
                    best = max(best, both / ((x1 - x + 1) * (y1 - y + 1) + (c - a + 1) * (d - b + 1) - both))
            correct[:, t] += [best >= delta for delta in deltas]
    return correct


def test_max_box_acc_v2_is_what_contours_of_opencv_give():
    draws = [random_case(seed) for seed in range(25)]
    values, correct = numbers("max_box_acc_v2", draws), contour_hits(draws, 0.01)
    assert (values["hits"].reshape(3, -1) == correct).all()
    assert values["max_box_acc_v2"] == near((correct.max(1) / 25).mean(), 4)
    assert 0 < values["max_box_acc_v2"] < 1


def test_max_box_acc_goes_by_the_largest_contour_at_one_overlap():
    draws = [random_case(seed) for seed in range(25)]
    values = numbers("max_box_acc_v2(contours=largest,deltas=0.5)", draws)
    correct = contour_hits(draws, 0.01, (0.5,), largest=True)
    assert (values["hits"] == correct[0]).all() and (correct != contour_hits(draws, 0.01, (0.5,))).any()
    assert values["max_box_acc_v2"] == correct.max() / 25
    both = numbers("max_box_acc_v2(deltas=(0.5,0.9))", draws)
    assert both["max_box_acc_v2"] == near((contour_hits(draws, 0.01, (0.5, 0.9)).max(1) / 25).mean(), 4)


@pytest.mark.parametrize("components", ["all", "largest"])
def test_box_acc_is_what_region_properties_of_scikit_image_give(components):
    from skimage.measure import label, regionprops

    draws, steps = [random_case(seed) for seed in range(12)], np.arange(0, 1, 0.05)
    best = np.zeros((12, 20))
    for i, t in np.ndindex(best.shape):
        regions = regionprops(label(steps[t] < draws[i].S, connectivity=2))
        for region in regions if components == "all" else [max(regions, key=lambda region: region.area)]:
            y0, x0, y1, x1 = np.array(region.bbox) / [40, 48, 40, 48]
            for a, b, c, d in draws[i].boxes:
                both = max(0, min(x1, c) - max(x0, a)) * max(0, min(y1, d) - max(y0, b))
                best[i, t] = max(best[i, t], both / ((x1 - x0) * (y1 - y0) + (c - a) * (d - b) - both))
    expected = np.mean([(best >= delta).mean(0).max() for delta in (0.3, 0.5, 0.7)])
    assert numbers(f"box_acc(step=0.05,components={components})", draws)["box_acc"] == near(expected, 16)


SHORT = ["deletion.steps=6", "insertion.steps=6"]


@pytest.fixture(scope="module")
def answered():
    """Six noisy pictures explained and scored in this process, in batches of the size given."""
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64), dtype=np.uint8)
    backbone = backbones.load("tests.tiny:build", image_size=64)
    truth = [[(0.2, 0.2, 0.8, 0.7)]] * 4 + [[], [(0.5, 0.5, 0.501, 0.501)]]

    def run(batch_size=None, **how):
        how = {"metrics": ["all"], "metric_args": SHORT, "boxes": truth, "batch_size": batch_size, **how}
        return pipeline.explain(images, [0, 1, 2, 3, 4, 0], backbone, ["eigen_cam", "grad_cam"], ["label", "finer"], **how)

    return run


def test_scores_do_not_depend_on_the_batch(answered):
    whole, others = answered(), [answered(size) for size in (1, 4)]
    for other in others:
        for one, same in zip(whole["metrics"].to_pylist(), other["metrics"].to_pylist(), strict=True):
            assert one["reasons"] == same["reasons"]
            # a network's last digits follow the batch, and an exact tie, of pixels or of probabilities, hangs on the last digit;
            # so does the side of a threshold that a pixel is on: no more than four pixels of 64 x 64
            asked = {column for entry in METRICS.values() if entry.perturbations for column in entry.columns}
            for name, value in one.items():
                if name == "reasons" or (name == "tie_share" and one["method"] not in CONTROLS):
                    continue
                exact = one["method"] in CONTROLS and name not in asked
                assert same[name] == (value if exact or isinstance(value, str) else pytest.approx(value, abs=4 / 64**2)), name
        for control in CONTROLS:
            of_map = [[r for r in found["partials"].to_pylist() if _told_by_the_map(r, control)] for found in (whole, other)]
            assert of_map[0] == of_map[1]


def _told_by_the_map(row, control):
    """Whether a row of partials is of this control and comes from its map alone, with no further pass through the network."""
    return row["method"] == control and not METRICS[row["metric"]].perturbations


def test_every_null_has_a_reason_and_every_reason_a_null(answered):
    for each in answered()["metrics"].to_pylist():
        reasons = dict(each["reasons"] or ())
        columns = set(each) - FIXED
        assert {column for column in columns if each[column] is None} == set(reasons)
        assert all(reasons.values())


def test_a_map_that_failed_is_a_null_with_its_reason_and_its_neighbours_are_scored(answered, monkeypatch):
    def fragile(A):
        if A.amax() == tallest:
            raise ValueError("too tall")
        return A.sum(1)

    tallest = torch.tensor(0.0)
    monkeypatch.setitem(METHODS, "eigen_cam", Cam("eigen_cam", lambda A: seen.append(A.amax((1, 2, 3))) or A.sum(1)))
    seen = []
    answered(1)
    tallest = torch.cat(seen).max()
    monkeypatch.setitem(METHODS, "eigen_cam", Cam("eigen_cam", fragile))
    tables = answered(1)
    found = [each for each in tables["metrics"].to_pylist() if each["method"] == "eigen_cam"]
    assert sorted(str(dict(each["reasons"] or ()).get("tie_share")) for each in found) == ["None"] * 5 + ["there is no map: ValueError"]
    assert [error["stage"] for error in tables["errors"].to_pylist()] == ["map"]


def test_an_error_of_a_metric_is_told_and_its_neighbours_stand(answered, monkeypatch):
    monkeypatch.setitem(METRICS, "odd", Metric("odd", lambda S: {}["x"], {"odd": "higher"}))
    tables = answered(metrics=["odd", "tie_share"], metric_args=[])
    assert set(tables["errors"]["stage"].to_pylist()) == {"metric"}
    assert all(dict(each["reasons"]) == {"odd": "KeyError: 'x'"} and each["tie_share"] for each in tables["metrics"].to_pylist())


def test_the_names_of_the_controls_are_kept():
    with pytest.raises(Refusal, match="random"):
        build_spec(["random=grad_cam"], ["label"], metrics=["energy"])


def test_one_map_is_drawn_once_for_all_its_metrics(answered, monkeypatch):
    calls = []
    monkeypatch.setattr(views, "upsample", lambda *a: calls.append(1) or torch.nn.functional.interpolate(a[0][:, None], a[1])[:, 0])
    answered()
    assert len(calls) == 6 * (2 + 1 + 2), "grad_cam for two targets, eigen_cam, fake_cam and random"


def test_metrics_bring_the_controls_and_nothing_else_does():
    assert [m.alias for m in build_spec(["grad_cam"], ["label"], metrics=["energy"]).methods] == ["grad_cam", "fake_cam", "random"]
    assert [m.alias for m in build_spec(["random"], ["label"], metrics=["energy"]).methods] == ["random", "fake_cam"]
    assert [m.alias for m in build_spec(["grad_cam"], ["label"]).methods] == ["grad_cam"]


def test_columns_follow_the_alias():
    assert list(build_spec(["cam"], ["label"], metrics=["fine=iou", "tight=pointing_blob(threshold=0.99)"]).columns) == [
        *(f"fine_{t}" for t in (10, 30, 50, 70, 90)),
        "tight",
        "tight_small",
    ]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [(["enery"], "energy"), (["iou", "iou_50=energy"], "alias"), (["label=energy"], "label"), (["pxap(bins=x)"], "int")],
)
def test_metrics_that_cannot_be_are_refused(metrics, words):
    with pytest.raises(Refusal, match=words):
        build_spec(["cam"], ["label"], metrics=metrics)


def test_a_metric_that_asks_for_what_does_not_exist_is_refused():
    with pytest.raises(Refusal, match="logits"):
        metric(better="lower")(lambda S, logits: 0.0)
    assert set(REGISTRY) == set(METRICS)


@pytest.mark.parametrize("target", ["label", "predicted"])
def test_ad_ai_and_ag_are_what_one_forward_of_the_dimmed_image_says(target):
    """Against the formulas in double precision, an image at a time; of Layer-CAM's maps the stored cells are known."""
    backbone = backbones.load("tests.tiny:build", image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    labels, wide = [0, 1, None, 3, 4], widened(backbone)
    explained = pipeline.explain(images, labels, backbone, ["layer_cam"], [target], metrics=["ad", "ai", "ag"])
    rows = {(row["image_id"], row["method"]): row for row in explained["metrics"].to_pylist()}
    cells = {(row["image_id"], row["method"]): stored(row).astype(np.float64) for row in explained["maps"].to_pylist()}
    assert ("00000002", "layer_cam") in rows or target == "label"

    def shares(map, i):
        """ad, ag, ad_pred and ag_pred."""
        x = torch.tensor(images[i])[None] / 255
        S = torch.from_numpy(unit(upsample(torch.from_numpy(map)[None], (64, 64), "bilinear")[0].numpy()))
        p, o = (wide.logits(wide.prepare.normalise(z)).softmax(1)[0].detach().numpy() for z in (x, x * S))
        best = int(p.argmax())
        return [
            each
            for k in (best if labels[i] is None else labels[i], best)
            for each in (max(p[k] - o[k], 0) / p[k], max(o[k] - p[k], 0) / (1 - p[k]))
        ]

    for (image_id, method), row in rows.items():
        if method == "random":
            continue
        i, told = int(image_id), [row[f"{name}{suffix}"] for suffix in ("", "_pred") for name in ("ad", "ag")]
        map = cells[image_id, method] if method == "layer_cam" else np.ones((64, 64))
        if method == "fake_cam":
            map[0, 0] = 0
        exact, far = rounding(lambda map=map, i=i: torch.tensor(shares(map, i)))
        with Double():
            far += 0 if method == "fake_cam" else torch.from_numpy(by_eight_bits(lambda map, i=i: shares(map, i), map))
        assert (off(told, exact) <= far).all()
        for suffix in ("", "_pred"):
            assert row[f"ad{suffix}"] * row[f"ag{suffix}"] == 0
            assert row[f"ai{suffix}"] in (0, 1)
            assert row[f"ai{suffix}"] >= (row[f"ag{suffix}"] > 0)


def test_metrics_of_a_map_share_one_forward(monkeypatch):
    from pipeline.engine import perturbed

    rows = []
    asked = perturbed.pass_copies
    monkeypatch.setattr(perturbed, "pass_copies", lambda scene, *a, **k: rows.append(len(scene.pixels)) or asked(scene, *a, **k))
    backbone = backbones.load("tests.tiny:build", image_size=64)
    images = np.zeros((4, 3, 64, 64), np.uint8)
    pipeline.explain(images, [0] * 4, backbone, ["grad_cam"], ["label"], metrics=["ad", "ai", "ag", "energy"])
    assert rows == [4] * 3, "grad_cam, and the two controls"
