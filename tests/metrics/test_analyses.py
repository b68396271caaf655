"""Studies beyond one number a map: boxes, contrast, other classes, networks drawn anew, and how alike classes are."""

import numpy as np
import pytest
import torch

import pipeline
from jobs import explain, score
from pipeline import backbones, tables
from pipeline.backbones.cutting import randomised
from pipeline.backbones.cutting.randomised import last_layers, randomised_networks
from pipeline.backbones.similarity import sorted_cosines
from pipeline.families import Randomised
from pipeline.maps.quantise import stored
from pipeline.maps.render import unit, upsample
from pipeline.metrics import METRICS
from pipeline.metrics.analysis.selectivity import POWERS
from pipeline.reduce.moments import exact_interval
from pipeline.reduce.weight_similarity import weight_similarity
from pipeline.refusal import Refusal
from pipeline.score.scoring import score_map
from pipeline.score.views import MapView
from pipeline.spec.grammar import parse
from tests.conditioning import DOUBLE, by_eight_bits, near, off, rounding, widened
from tests.jobs import job
from tests.scores import scored_maps
from tests.shards import dataset
from tests.views import ODD

SIDE, BOX = 64, (0.25, 0.25, 0.75, 0.5)
LABELS = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 3, SIDE, SIDE), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("tests.tiny:build", image_size=SIDE)


@pytest.fixture(scope="module")
def studied(images, backbone):
    names = ["ad", "ai", "ag", "bbox_study", "selectivity"]
    targets = ["label", "predicted", "second", "least"]
    return pipeline.explain(images, LABELS, backbone, ["grad_cam"], targets, metrics=names, boxes=[[BOX]] * 3 + [[]])


def of(tables, method, target, table="metrics") -> list[dict]:
    return [row for row in tables[table].to_pylist() if (row["method"], row["target"]) == (method, target)]


def probability(backbone, images, masks, classes) -> np.ndarray:
    """Of each image's class, with its pixels in [0, 1] multiplied by its mask [H W] before they are normalised."""
    pixels = torch.from_numpy(images).float() / 255 * torch.tensor(np.stack(masks), dtype=torch.float32)[:, None]
    with torch.no_grad():
        p = backbone.logits(backbone.prepare.normalise(pixels)).double().softmax(1)
    return p[range(len(p)), classes].numpy()


def drop_gain_increase(p, o) -> np.ndarray:
    return np.stack([np.maximum(p - o, 0) / p, np.maximum(o - p, 0) / (1 - p), p < o])


def drawn_maps(images, backbone, target) -> list[np.ndarray]:
    """The float maps as metrics saw them, drawn, from 0 to 1."""
    return [drawn.S for drawn, _ in scored_maps(images, backbone, ["ad"], "grad_cam", target, labels=LABELS)]


def same(found, backbone, images, classes, masks) -> None:
    """Drops and gains [2 B] are those of the network in double precision, as far as rounding leaves them in single."""
    wide = widened(backbone)

    def shares():
        p, o = (probability(wide, images, each, classes) for each in (np.ones((4, SIDE, SIDE)), masks))
        return torch.from_numpy(drop_gain_increase(p, o)[:2].T.copy())

    exact, far = rounding(shares)
    found = np.array(found).T
    assert (off(found, exact[: len(found)]) <= far[: len(found)]).all()


def test_the_box_study_is_what_the_network_says_of_boxes_and_of_maps_within_them(studied, images, backbone):
    B, S = np.zeros((SIDE, SIDE)), drawn_maps(images, backbone, "label")
    B[16:32, 16:48] = 1
    parts = {"b": [B] * 4, "rest": [1 - B] * 4, "s_b": [s * B for s in S], "s_rest": [s * (1 - B) for s in S]}
    rows = of(studied, "grad_cam", "label")
    for part, masks in parts.items():
        same([[row[f"bbox_study_{name}_{part}"] for row in rows[:3]] for name in ("ad", "ag")], backbone, images, LABELS, masks)
        assert [row[f"bbox_study_ai_{part}"] for row in rows[:3]] == [float(row[f"bbox_study_ag_{part}"] > 0) for row in rows[:3]]
    assert dict(rows[3]["reasons"])["bbox_study_ad_b"] == "no box"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_box_around_the_whole_image_changes_nothing_to_the_last_digit(images, backbone, batch_size):
    """The look and a later pass of the same image may differ by rounding, which is neither a loss nor a gain."""
    whole = [[(0, 0, 1, 1)]] * len(images)
    tables = pipeline.explain(
        images, [0] * len(images), backbone, ["cam"], ["label"], metrics=["bbox_study"], boxes=whole, batch_size=batch_size
    )
    for row in tables["metrics"].to_pylist():
        assert [row[f"bbox_study_{name}_b"] for name in ("ad", "ag", "ai")] == [0, 0, 0]


def test_fake_cam_within_the_box_is_the_box(studied):
    for row in of(studied, "fake_cam", "none")[:3]:
        for name in ("ad", "ag", "ai"):
            assert row[f"bbox_study_{name}_s_b"] == row[f"bbox_study_{name}_b"]


def test_selectivity_is_ad_ag_and_ai_of_powers_of_the_map(studied, images, backbone):
    rows, S = of(studied, "grad_cam", "label"), drawn_maps(images, backbone, "label")
    for power in POWERS:
        found = [[row[f"selectivity_{name}_{100 * power:.0f}"] for row in rows] for name in ("ad", "ag")]
        same(found, backbone, images, LABELS, [s**power for s in S])
    same([[row[name] for row in rows] for name in ("ad", "ag")], backbone, images, LABELS, S)
    assert [row["selectivity_ai_100"] for row in rows] == [row["ai"] for row in rows]


def test_on_the_mean_colour_it_is_the_normalised_image_that_is_multiplied(images, backbone):
    B, powers, wide = np.zeros((SIDE, SIDE)), (0.5, 1, 3), widened(backbone)
    B[16:32, 16:48] = 1
    names = ["bbox_study(fill=mean)", "selectivity(fill=mean)", "ad(fill=mean)"]
    study = pipeline.explain(images[:3], LABELS[:3], backbone, ["grad_cam"], ["label"], metrics=names, boxes=[[BOX]] * 3)
    S, rows = drawn_maps(images, backbone, "label")[:3], of(study, "grad_cam", "label")

    def shares(masks):
        """Drops on the images that are left of the normalised ones, in double precision, and how far single may be from them."""
        x = wide.prepare.normalise(torch.from_numpy(images[:3]).double() / 255)
        left = torch.stack([torch.ones(3, SIDE, SIDE, dtype=torch.float64), torch.from_numpy(np.stack(masks)).double()])[:, :, None]

        def drops():
            p, o = (wide.logits(x * masks).softmax(1)[range(3), LABELS[:3]] for masks in left)
            return (p - o).clamp(min=0) / p

        return rounding(drops)

    parts = {"b": [B] * 3, "rest": [1 - B] * 3, "s_b": [s * B for s in S], "s_rest": [s * (1 - B) for s in S]}
    masks = {f"bbox_study_ad_{part}": each for part, each in parts.items()}
    masks |= {f"selectivity_ad_{100 * power:.0f}": [s**power for s in S] for power in powers} | {"ad": S}
    for column, each in masks.items():
        exact, far = shares(each)
        assert (off(np.array([row[column] for row in rows]), exact) <= far).all(), column


def test_maps_of_other_classes_are_scored_on_the_label(studied, images, backbone):
    """E35: ad of the maps of the predicted, second and least likely class, of the label's probability."""
    for target in ("predicted", "second", "least"):
        found = [[row[name] for row in of(studied, "grad_cam", target)] for name in ("ad", "ag")]
        same(found, backbone, images, LABELS, drawn_maps(images, backbone, target))
    explained = {target: [row["class_id"] for row in of(studied, "grad_cam", target)] for target in ("predicted", "second", "least")}
    order = np.argsort(-np.array([row["logits"] for row in studied["predictions"].to_pylist()], dtype=np.float32), 1)
    assert explained == {"predicted": order[:, 0].tolist(), "second": order[:, 1].tolist(), "least": order[:, -1].tolist()}


def test_misclassified_images_alone(images, backbone):
    kept = pipeline.explain(images, LABELS, backbone, ["grad_cam"], ["predicted"], metrics=["ad"], select="predicted <> label")
    wrong = [row["image_id"] for row in kept["predictions"].to_pylist() if row["predicted"] != row["label"]]
    assert len(wrong) > 0 and [row["image_id"] for row in of(kept, "grad_cam", "predicted")] == wrong


@pytest.mark.parametrize(
    ("metric", "rows"),
    [("selectivity", 1 + 3 * len(POWERS)), ("bbox_study", 1 + 2 + 3 * 2), ("sanity(layers=(10,8,4,2,0))", 1 + 5)],
)
def test_each_costs_its_passes_and_those_that_no_map_enters_are_shared(images, metric, rows, monkeypatch):
    """For three maps: of one method, and of the two controls."""
    count, curved = [], backbones.load("tests.tiny:curved", image_size=SIDE)
    like = randomised.like
    monkeypatch.setattr(randomised, "like", lambda *about: muted(like, count, *about))
    for name in ("trunk", "logits"):
        plain = getattr(backbones.Backbone, name)
        monkeypatch.setattr(backbones.Backbone, name, lambda self, x, plain=plain: count.append(len(x)) or plain(self, x))
    tables = pipeline.explain(images, LABELS, curved, ["grad_cam"], metrics=[metric], boxes=[[BOX]] * 4)
    assert not tables["errors"].num_rows
    assert sum(size for size in count if size > 1) == 4 * rows


def muted(function, count: list, *arguments):
    """What `function` returns, leaving no trace of what it passes through networks."""
    before = len(count)
    result = function(*arguments)
    del count[before:]
    return result


def test_analyses_are_computed_only_where_they_are_named(images, backbone):
    tables = pipeline.explain(images, LABELS, backbone, ["grad_cam"], metrics=["all", "deletion(steps=2)", "insertion(steps=2)"])
    names = [name for name, entry in METRICS.items() if entry.family == "analysis"]
    assert names and not [column for column in tables["metrics"].column_names for name in names if column.startswith(name)]


CHANGE = Randomised(5)


@pytest.fixture(scope="module")
def resnet():
    return backbones.load("timm/test_resnet", args={"pretrained": False}, image_size=SIDE, seed=3)


def test_layers_are_drawn_anew_from_the_top_each_on_top_of_the_one_before(resnet):
    before, tops = resnet.network.state_dict(), ["fc", "layer4", "layer3", "layer2", "layer1"]
    for step, network in enumerate(randomised_networks(resnet.network, CHANGE), 1):
        now = network.state_dict()
        moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], now[name])}
        assert moved == {tops[step - 1]}
        before = now
    again, other = (list(randomised_networks(resnet.network, Randomised(5, seed=seed)))[-1].state_dict() for seed in (0, 1))
    assert all(torch.equal(again[name], now[name]) for name in now)
    assert not torch.equal(other["fc.weight"], now["fc.weight"])


def test_batch_normalisation_forgets_its_statistics(resnet):
    network = list(randomised_networks(resnet.network, CHANGE))[1]
    found = [module for name, module in network.named_modules() if name.startswith("layer4") and hasattr(module, "running_mean")]
    assert found and all((m.running_mean == 0).all() and (m.running_var == 1).all() and (m.weight == 1).all() for m in found)


def test_layers_can_be_named_and_must_be_there(resnet):
    named = last_layers(resnet.network, Randomised(2, ("fc", "layer4.0.conv1")))
    assert named == [["fc"], ["layer4.0.conv1"]]
    for change, told in [
        (Randomised(1, ("layer9",)), "no layer 'layer9'"),
        (Randomised(9), "9 layers are to be drawn anew, and the network has 6"),
    ]:
        with pytest.raises(Refusal, match=told):
            last_layers(resnet.network, change)
    with pytest.raises(Refusal, match="name 5 layers"):
        Randomised(5, ("fc",))


def test_what_depends_on_no_weight_stays_and_what_depends_on_the_classifier_changes(images, resnet):
    methods = ["grad_cam", "eigen_cam", "fake_cam", "random"]
    tables = pipeline.explain(images[:2], LABELS[:2], resnet, methods, metrics=["sanity"])
    assert set(METRICS["sanity"].columns) < set(tables["metrics"].column_names)
    drawn = []
    for row in tables["metrics"].to_pylist():
        found = {column: row[column] for column in METRICS["sanity"].columns}
        if row["method"] in ("fake_cam", "random"):
            assert found == near(dict.fromkeys(found, 1), SIDE**2)
        if row["method"] == "eigen_cam":
            assert [found[f"sanity_{name}_1"] for name in ("spearman", "spearman_abs", "ssim", "hog")] == near([1] * 4, SIDE**2)
            assert max(found[f"sanity_ssim_{step}"] for step in range(2, 6)) < 0.999
        if row["method"] == "grad_cam":
            drawn.append(found["sanity_ssim_1"] is not None)
            assert not drawn[-1] or max(found[f"sanity_spearman_{step}"] for step in range(1, 6)) < 0.999
    assert any(drawn), "not all of its maps are constant"


def test_a_map_by_a_changed_network_is_the_map_that_network_has(images, resnet):
    """The same through another door: the changed network loaded as a backbone of its own."""
    *_, changed = randomised_networks(resnet.network, CHANGE)
    (plain, other), size = (
        (pipeline.explain(images[:2], LABELS[:2], b, ["grad_cam"]) for b in (resnet, backbones.like(resnet, changed, ""))),
        SIDE,
    )
    row = pipeline.explain(images[:2], LABELS[:2], resnet, ["grad_cam"], metrics=["sanity"])["metrics"].to_pylist()
    cells = [[stored(r).astype(float) for r in tables["maps"].to_pylist()] for tables in (plain, other)]

    def alike(*maps):
        one, two = (unit(upsample(torch.from_numpy(map)[None], (size, size), "bilinear")[0].numpy()) for map in maps)
        return ssim(one, two)

    pairs = list(zip([r for r in row if r["method"] == "grad_cam"], *cells, strict=True))
    assert any(one.any() for _, one, _ in pairs), "not all maps are constant"
    for found, one, two in pairs:
        assert found["sanity_ssim_5"] == (pytest.approx(alike(one, two), abs=by_eight_bits(alike, one, two)) if one.any() else None)


def test_too_few_layers_stop_the_job(images, backbone):
    with pytest.raises(Refusal, match="5 layers are to be drawn anew, and the network has 4"):
        pipeline.explain(images, LABELS, backbone, ["grad_cam"], metrics=["sanity"])


def ssim(one, two) -> float:
    """Wang et al. 2004 with Gaussian weights of sigma 1.5, the border of half a window left out."""
    from scipy.ndimage import gaussian_filter

    def mean(image):
        return gaussian_filter(image, 1.5, truncate=3.5)

    a, b = mean(one), mean(two)
    variances, both = mean(one * one) - a * a + mean(two * two) - b * b, mean(one * two) - a * b
    each = (2 * a * b + 0.01**2) * (2 * both + 0.03**2) / ((a * a + b * b + 0.01**2) * (variances + 0.03**2))
    return each[5:-5, 5:-5].mean()


def test_similarities_are_those_of_scipy_and_of_the_formula():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    draws = torch.from_numpy(rng.normal(size=(6, 5, 5)))
    M, *others = upsample(draws, (64, 80), "bilinear").numpy()
    found = dict(zip(METRICS["sanity"].columns, METRICS["sanity"].score(M, np.stack(others)), strict=True))
    for step, other in enumerate(others, 1):
        assert found[f"sanity_spearman_{step}"] == near(spearmanr(M.ravel(), other.ravel()).statistic, M.size, size=1)
        assert found[f"sanity_spearman_abs_{step}"] == near(spearmanr(abs(M).ravel(), abs(other).ravel()).statistic, M.size, size=1)
        assert found[f"sanity_ssim_{step}"] == near(ssim(unit(M), unit(other)), M.size, size=1)


def test_hog_sees_edges_and_not_which_side_is_bright():
    M = np.zeros((64, 64))
    M[:, 20:40] = 1
    found = METRICS["sanity"].score(M, np.stack([M, 1 - M, M.T, np.ones_like(M), 3 * M]))
    assert list(found[-5:]) == near([1, 1, found[-3], 0, 1], M.size, size=1)
    assert found[-3] < 0.5
    assert found[3] == 0, "a constant map correlates with nothing"


@pytest.mark.parametrize("odd", sorted(ODD))
def test_where_there_is_no_map_or_a_constant_one_there_is_no_likeness(odd):
    """All other metrics' odd cases are in test_metrics; of an image, `sanity` needs none but its map."""
    map, about, reason = ODD[odd]
    choice, other = parse("sanity", METRICS, "metric"), np.random.default_rng(0).random((5, SIDE, SIDE))
    told = dict.fromkeys(METRICS["sanity"].resolve(choice.args, (SIDE, SIDE)).values(), other)
    score = score_map(choice, MapView(map, "bilinear", (SIDE, SIDE), about, 0, None, told))
    assert score.reason == (reason if odd in ("a constant map", "NaN", "no map") else None)


def test_a_map_that_a_changed_network_makes_constant_correlates_with_nothing():
    """Constant but for rounding as well, whatever its scale."""
    M, noise = np.random.default_rng(0).random((2, SIDE, SIDE))
    for constant in (np.zeros_like(M), 5 + 1e-8 * noise, -1e6 * (1 + 1e-9 * noise)):
        found = dict(zip(METRICS["sanity"].columns, METRICS["sanity"].score(M, np.stack([constant] * 5)), strict=True))
        assert {value for name, value in found.items() if "ssim" not in name} == {0}
        assert found["sanity_ssim_1"] == near(ssim(unit(M), np.zeros_like(M)), M.size, size=1)


def test_the_shares_among_the_columns_have_the_intervals_of_shares(studied):
    told = {
        (row["metric"], row["scope"]): row
        for row in studied["summary"].to_pylist()
        if (row["method"], row["target"]) == ("grad_cam", "label")
    }
    for scope in {scope for _, scope in told}:
        ends = [told[name, scope][end] for name in ("ai", "selectivity_ai_100") for end in ("mean", "ci_low", "ci_high")]
        assert ends[:3] == ends[3:]
    for name in ("selectivity", "bbox_study"):
        for column in METRICS[name].columns:
            row = told[column, "all"]
            exact = exact_interval(np.array([row["n"]], float), np.array([row["mean"]]))
            same = [row["ci_low"], row["ci_high"]] == [exact["ci_low"][0], exact["ci_high"][0]]
            assert same is ("_ai_" in column), column


def test_similar_classes_come_first():
    weights = torch.tensor([[1.0, 0], [2, 0], [0, 1], [-1, 0]])
    expected = [[1, 0, -1], [1, 0, -1], [0, 0, 0], [0, -1, -1]]
    torch.testing.assert_close(sorted_cosines(weights), torch.tensor(expected, dtype=torch.float64), **DOUBLE)


def test_the_similarity_curve_is_the_mean_over_classes(backbone):
    found = weight_similarity(backbone).to_pylist()
    W = backbone.class_weights().double().numpy()
    cosines = W @ W.T / np.outer(*[np.linalg.norm(W, axis=1)] * 2)
    falling = np.array([sorted(np.delete(row, i))[::-1] for i, row in enumerate(cosines)])
    told = {name: [row["mean"] for row in found if row["metric"] == name] for name in ("weight_similarity", "weight_similarity_std")}
    assert told["weight_similarity"] == near(falling.mean(0), 64, size=1)
    assert told["weight_similarity_std"] == near(falling.std(0, ddof=1), 64, size=1)
    assert {row["n"] for row in found} == {5}
    with pytest.raises(Refusal, match="no linear classifier"):
        weight_similarity(backbones.load("tests.tiny:build", args={"num_classes": 1}, image_size=SIDE))


def curves(out) -> list[dict]:
    return tables.open(str(out)).sql("SELECT * FROM curves ORDER BY ALL").to_pylist()


def test_a_job_publishes_the_similarity_curve_without_a_pass_for_it(backbone, tmp_path):
    plain = {"methods": ("grad_cam",), "targets": ("label",)}
    source, out = dataset(tmp_path / "shards", shards=1, images=2), tmp_path / "out"
    first = explain.run(job(source, out, **plain))
    landed = set(out.glob("tasks/**/receipt.json"))
    again = explain.run(job(source, out, **plain, weight_similarity=True))
    assert again.new and again.run_id != first.run_id
    assert set(out.glob("tasks/**/receipt.json")) == landed
    expected = sorted(weight_similarity(backbone).to_pylist(), key=lambda row: (row["metric"], row["step"]))
    assert curves(out) == expected
    assert not explain.run(job(source, out, **plain, weight_similarity=True)).new
    explain.run(job(source, out, **plain, weight_similarity=True, metrics=("deletion(steps=4)",)))
    assert [row for row in curves(out) if row["method"] is None] == expected
    assert {row["metric"] for row in curves(out) if row["method"] == "grad_cam"} == {"deletion", "deletion_label"}
    explain.run(job(source, out, **plain))
    assert "curves" not in tables.open(str(out)).tables, "a run holds what its job asks for"


def test_scoring_keeps_the_similarity_curve(tmp_path):
    source, out = dataset(tmp_path / "shards", shards=1, images=2), tmp_path / "out"
    explain.run(job(source, out, methods=("random",), targets=(), weight_similarity=True))
    before = curves(out)
    assert score.main(["--out", str(out), "--metrics", "energy"]) == 0
    assert curves(out) == before
    assert "energy" in tables.open(str(out)).dataset("metrics").schema.names


def test_a_network_without_a_linear_classifier_is_refused_before_any_work(tmp_path):
    source = dataset(tmp_path / "shards", shards=1, images=1)
    for changes in ({"backbone_args": ("num_classes=1",), "activation": "sigmoid"}, {"backbone": "tests.tiny:calm"}):
        with pytest.raises(Refusal, match="no linear classifier"):
            explain.run(job(source, tmp_path / "out", methods=("grad_cam",), targets=("label",), weight_similarity=True, **changes))
    assert not (tmp_path / "out" / "tasks").exists()


def test_help_tells_of_the_similarity_curve(capsys):
    with pytest.raises(SystemExit):
        explain.main(["--help"])
    assert "--weight-similarity" in capsys.readouterr().out
