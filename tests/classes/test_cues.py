"""Cue localisation: pairs of classes, where they differ, and how well a map says so."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import pipeline
from jobs import explain, score, train
from pipeline import backbones, engine, sources, tables
from pipeline.classes.pairs import Pair, Parts, nearest, pairs_of_attributes, part_of, partners, parts_of, read, running, write
from pipeline.datasets import creatures
from pipeline.maps.average_precision import average_precision
from pipeline.metrics import METRICS
from pipeline.reduce.corpus import pair_totals, summarise_partials
from pipeline.refusal import Refusal
from pipeline.score.partials import add_score, totals
from pipeline.score.scoring import score_map
from pipeline.score.views import MapView, PairView
from pipeline.sources import list_shards
from pipeline.sources.decode import decode
from pipeline.sources.images import ImageRow
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.grammar import parse
from pipeline.tables import schema
from pipeline.train.job import Training
from tests.conditioning import near
from tests.jobs import job
from tests.shards import encoded, picture, tar_bytes

NAMES = ["has_bill_shape::hooked", "has_tail_shape::forked", "has_size::small", "has_shape::long-legged-like", "has_crown_color::red"]


def about(**fields) -> ImageRow:
    return ImageRow(image_id="x", key="x", **fields)


def test_classes_differ_in_the_parts_of_attributes_that_are_the_ones_own():
    values = [[0.5, 0.9, 0.2, 0.0, 0.1], [0.49, 0.8, 0.9, 0.1, 0.0], [0.6, 0.1, 0.3, 0.7, 0.6], [0.5, 0.6, 0.7, 0.2, 0.3]]
    # at half of all votes an attribute is a class's own; size speaks of no part, and the shape of a long-legged body of legs
    assert pairs_of_attributes(NAMES, np.array(values)) == [
        Pair(0, 1, ("head",)),
        Pair(1, 3, ("head",)),
        Pair(0, 2, ("head", "tail", "leg")),
        Pair(1, 2, ("head", "tail", "leg")),
        Pair(2, 3, ("head", "tail", "leg")),
    ]
    assert part_of("has_size::small") is None and part_of("left eye") == "head"


def test_the_creatures_pairs_are_those_of_their_attributes():
    values = np.array([creatures.class_attributes(name) for name in creatures.CLASSES]) / 100
    found = pairs_of_attributes(creatures.ATTRIBUTES, values)
    expected = [tuple(map(creatures.CLASSES.index, pair)) for count in (1, 2, 3) for pair in creatures.pairs(count)]
    assert [pair[:2] for pair in found] == expected


def cub(realdata):
    """Attribute names, class table, and (class, size, visible points) of every test image."""
    root = realdata / "CUB_200_2011"

    def rows(path):
        return [line.split() for line in (root / path).read_text().splitlines()]

    names = [name for _, name in rows("attributes/attributes.txt")]
    values = np.loadtxt(root / "attributes/class_attribute_labels_continuous.txt") / 100
    parts = {number: " ".join(name) for number, *name in rows("parts/parts.txt")}
    test = {number for number, train in rows("train_test_split.txt") if train == "0"}
    labels = {number: int(label) - 1 for number, label in rows("image_class_labels.txt")}
    sizes = {number: Image.open(root / "images" / path).size for number, path in rows("images.txt") if number in test}
    points = {number: {} for number in test}
    for number, part, x, y, visible in rows("parts/part_locs.txt"):
        if number in test and visible == "1":
            points[number][parts[part]] = (float(x) / sizes[number][0], float(y) / sizes[number][1])
    return names, values, [(labels[number], points[number]) for number in sorted(test)]


def test_cub_has_the_pairs_that_calm_counts(realdata):
    names, values, images = cub(realdata)
    pairs = pairs_of_attributes(names, values)
    assert np.bincount([len(pair.parts) for pair in pairs]).tolist() == [0, 31, 64, 96]
    fifty = pairs_of_attributes(names, values[:50])
    assert np.bincount([len(pair.parts) for pair in fifty]).tolist() == [0, 18, 32, 27]
    assert fifty == [pair for pair in pairs if pair.b < 50]
    # every test image of the fifty classes has its parts by the points, and they cover the image once
    among, seen = partners(fifty), 0
    for label, points in images:
        parts = parts_of(about(points=points), (112, 112))
        assert parts.codes.min() >= 1 and parts.codes.max() <= len(parts.names) <= 9
        pixels = {name: (int(x * 112), int(y * 112)) for name, (x, y) in points.items()}
        for name, (x, y) in pixels.items():
            if part_of(name) != "head" and list(pixels.values()).count((x, y)) == 1:
                assert parts.names[parts.codes[y, x] - 1] in (part_of(name), "head"), "a head may be averaged onto a point"
        for _, pair in among.get(label, ()):
            seen += 1
            assert parts.showing(pair.parts).any() == bool({*parts.names} & {*pair.parts})
    assert (len(images), seen) == (400, 8 * 2 * len(fifty))


def test_a_pixel_is_the_part_of_its_nearest_point_and_the_heads_points_are_one():
    points = {"beak": (0.0, 0.0), "nape": (0.5, 0.0), "left leg": (0.0, 0.9), "right leg": (0.9, 0.9), "horn": (0.9, 0.0)}
    codes, names = nearest(points, (8, 10))
    assert names == ("head", "leg", "leg", "horn")
    places = [(2, 0), (0, 7), (9, 7), (9, 0)]  # of the head the mean, all cut off to whole pixels
    for y, x in np.ndindex(8, 10):
        distances = [(x - a) ** 2 + (y - b) ** 2 for a, b in places]
        assert codes[y, x] == distances.index(min(distances)) + 1
    row = about(points=points, silhouette=np.where(np.arange(10) < 5, 255, 0) * np.ones((8, 1), int))
    found = parts_of(row, (8, 10))
    assert not found.codes[:, 5:].any() and np.array_equal(found.codes[:, :5], codes[:, :5])
    assert np.array_equal(found.showing(("leg", "tail")), (found.codes == 2) | (found.codes == 3))
    exact = np.eye(4, dtype=np.uint8)
    assert np.array_equal(parts_of(replace(row, parts=exact, part_names=["tail"]), (4, 4)).showing(["tail"]), exact > 0)
    assert parts_of(about(points={}), (4, 4)) is None


def test_pairs_are_read_as_they_were_written(tmp_path):
    pairs = (Pair(1, 3, ("head",)), Pair(0, 2, ("tail", "leg")))
    write(f"{tmp_path}/pairs.json", pairs)
    assert read(f"{tmp_path}/pairs.json") == pairs
    assert json.loads((tmp_path / "pairs.json").read_text()) == {
        "pairs": [{"classes": [1, 3], "parts": ["head"]}, {"classes": [0, 2], "parts": ["tail", "leg"]}]
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no file of pairs"), ("{", "must hold"), ("[]", "must hold"), ('{"pairs": []}', "no pair"),
        ('{"pairs": [{"classes": [1], "parts": ["a"]}]}', "must hold"), ('{"pairs": [{"classes": [1, 1], "parts": ["a"]}]}', "no two"),
        ('{"pairs": [{"classes": [0, -1], "parts": ["a"]}]}', "no two"), ('{"pairs": [{"classes": [0, "b"], "parts": ["a"]}]}', "must hold"),
        ('{"pairs": [{"classes": [0, 1], "parts": []}]}', "0-1"), ('{"pairs": [{"classes": [0, 1], "parts": [3]}]}', "0-1"),
        ('{"pairs": [{"classes": [0, 1], "parts": ["a"]}, {"classes": [1, 0], "parts": ["b"]}]}', "more than once"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_pairs_is_refused_in_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "p.json").write_text(content)
    with pytest.raises(Refusal, match=words) as told:
        build_spec(["grad_cam"], [f"pairs:{tmp_path}/p.json"])
    assert "p.json" in str(told.value) and "\n" not in str(told.value)


# The metric


def contrast(maps, truth, row=None, pair=Pair(0, 1, ("tail",))):
    row = row or about(label=0)
    drawn = tuple(MapView(np.asarray(each, np.float32), "bilinear", truth.shape, row, 0) for each in maps)
    return PairView(drawn, pair, lambda ties: Parts(truth.astype(np.uint8), ("tail",)))


def value(written, contrasts):
    asked, sums = parse(written, METRICS, "metric"), {}
    for each in contrasts:
        add_score(sums, score_map(asked, each))
    return totals(asked, sums)


@pytest.mark.parametrize("thresholds", ["even", "log"])
def test_mpxap_of_a_pair_is_the_average_precision_of_a_sort(thresholds):
    """The difference of two maps, and one map by itself, on values that fall on the thresholds' grid."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    truths = [rng.random((12, 12)) < share for share in (0.1, 0.3, 0.2)]
    if thresholds == "even":
        signed = [(rng.integers(-8, 9, (12, 12)) / 8) for _ in truths]
    else:
        signed = [rng.choice([-1, 1], (12, 12)) * 10.0 ** -rng.integers(0, 7, (12, 12)) for _ in truths]
    for each in signed:
        each[0, :2] = 0, -1
    values, truth = (np.concatenate([each.ravel() for each in many]) for many in (np.abs(signed), truths))
    exact = average_precision_score(truth, values)
    other = np.float32(rng.integers(0, 1024, (12, 12)) / 1024)  # so that the difference is exact
    two = [contrast((np.float32(each) + other, other), on) for each, on in zip(signed, truths, strict=True)]
    one = [contrast((np.abs(each),), on) for each, on in zip(signed, truths, strict=True)]
    written = f"mpxap(thresholds={thresholds})"
    for each in (one, two) if thresholds == "even" else (one,):
        assert value(written, each) == {"mpxap": near(exact, 4 * truth.size), "mpxap_chance": near(truth.mean())}


def test_a_perfect_map_is_one_and_a_flat_one_the_chance_level():
    truth = np.zeros((10, 10), bool)
    truth[2:4, 3:9] = True
    assert value("mpxap", [contrast((truth,), truth)]) == {"mpxap": 1, "mpxap_chance": 0.12}
    assert value("mpxap", [contrast((1 - truth, np.ones((10, 10))), truth)])["mpxap"] == 1, "the sign of a difference says nothing"
    flat = METRICS["mpxap"].score(np.zeros((10, 10)), None, lambda ties: (truth, np.ones((10, 10), bool)))
    assert METRICS["mpxap"].corpus_level(**flat) == (near(0.12, 100), near(0.12))


def test_what_is_ignored_is_neither_on_the_object_nor_off_it():
    truth = np.repeat([[1, 0]], 4, 0).repeat(4, 1).astype(bool)
    mask = np.full((4, 8), 255)
    mask[:, 2:6] = 128
    map = np.tile(np.arange(8.0), (4, 1))
    sums = score_map(parse("mpxap", METRICS, "metric"), contrast((map,), truth, about(label=0, mask=mask))).values
    assert (sums["positive"].sum(), sums["negative"].sum()) == (8, 8)
    plain = MapView(np.float32(map), "bilinear", (4, 8), about(label=0, mask=mask), 0)
    sums = score_map(parse("pxap", METRICS, "metric"), plain).values
    assert (sums["positive"].sum(), sums["negative"].sum()) == (16, 0)


@pytest.mark.parametrize(
    ("maps", "truth", "parts", "reason"),
    [
        ((np.eye(4),), np.zeros((4, 4), bool), True, "no part in which the classes differ is visible"),
        ((np.eye(4),), np.ones((4, 4), bool), False, "no parts"),
        ((np.eye(4), np.eye(4)), np.eye(4, dtype=bool), True, "the map is constant"),
        ((np.eye(4), np.full((4, 4), np.nan)), np.eye(4, dtype=bool), True, "the map holds NaN or infinity"),
    ],
)
def test_where_there_is_nothing_to_say_there_is_a_reason(maps, truth, parts, reason):
    view = contrast(maps, truth)
    score = score_map(parse("mpxap", METRICS, "metric"), view if parts else PairView(view.maps, view.pair, lambda ties: None))
    assert (score.reason, score.error) == (reason, None)


def test_pairs_are_averaged_and_the_released_evaluation_adds_them_up():
    rng = np.random.default_rng(0)
    pairs = (Pair(0, 1, ("tail",)), Pair(2, 3, ("tail", "leg")), Pair(0, 2, ("head",)), Pair(4, 5, ("wing",)), Pair(6, 7, ("leg",)))
    asked, each = parse("mpxap(bins=50)", METRICS, "metric"), {}
    drawn = {pair.name: [contrast((rng.random((8, 8)),), rng.random((8, 8)) < 0.2) for _ in range(2)] for pair in pairs[:4]}
    for name, contrasts in drawn.items():
        for one in contrasts:
            add_score(each.setdefault(name, {}), score_map(asked, one))
    each[pairs[3].name] = {"n_null": np.ones(1)}
    found = pair_totals(asked, each, pairs)
    alone = {name: value("mpxap(bins=50)", contrasts)["mpxap"] for name, contrasts in drawn.items()}
    assert [found[name][1]["mpxap"] for name in ("0-1", "0-2", "2-3", "4-5")] == [alone["0-1"], alone["0-2"], alone["2-3"], None]
    assert found["1 part"] == (
        {"n": 2, "n_null": 2},
        {"mpxap": np.mean([alone["0-1"], alone["0-2"]]), "mpxap_chance": found["1 part"][1]["mpxap_chance"]},
    )
    assert found["2 parts"][1]["mpxap"] == alone["2-3"]
    assert found["all"][1]["mpxap"] == near(np.mean([alone["0-1"], alone["0-2"], alone["2-3"]]), 4)
    assert found["0-1"][0] == {"n": 2, "n_null": 0} and found["4-5"][0] == {"n": 0, "n_null": 1}
    summed = pair_totals(parse("mpxap(bins=50,cumulative=true)", METRICS, "metric"), each, pairs)
    order = ["0-1", "0-2", "2-3"]  # smaller groups first
    for k, name in enumerate(order, 1):
        pooled = [one for before in order[:k] for one in drawn[before]]
        assert summed[name][1] == value("mpxap(bins=50)", pooled)
    assert list(running(pairs, each)) == ["0-1", "0-2", "4-5", "2-3"]


def test_the_interval_of_a_mean_over_pairs_is_from_resampling_the_pairs():
    from scipy.stats import bootstrap, norm

    rng = np.random.default_rng(0)
    pairs = [Pair(0, b, ("tail",)) for b in range(1, 81)] + [Pair(1, 2, ("tail", "leg")), Pair(1, 3, ("tail", "leg"))]
    target = SimpleNamespace(name="pairs", argument=tuple(pairs))
    rows, each = [], {"random": [], "cam": []}
    for pair, (method, values) in itertools.product(pairs, each.items()):
        counts = {"n": [1], "positive": rng.integers(1, 50, 11), "negative": rng.integers(1, 50, 11)}
        values.append(average_precision(counts["positive"], counts["negative"]))
        about = {"model": "m", "method": method, "target": "none", "scope": pair.name}
        rows += [{**about, "metric": name, "kind": kind, "values": told} for name in ("mpxap", "sum") for kind, told in counts.items()]
    asked = replace(build_spec(["random"], [], metrics=["mpxap(bins=10)", "sum=mpxap(bins=10,cumulative=true)"]), targets=(target,))
    found = summarise_partials(pa.Table.from_pylist(rows, schema.PARTIALS), asked).to_pylist()
    found = {(row["metric"], row["method"], row["scope"]): row for row in found}
    noise = np.sqrt(0.025 * 0.975) / norm.pdf(norm.ppf(0.025)) * np.sqrt(1 / 1000 + 1 / 4000)
    cam, random = np.array(each["cam"])[:80], np.array(each["random"])[:80]
    row = found["mpxap", "cam", "1 part"]
    for values, name in ((cam, "ci"), (cam - random, "diff_random")):
        told = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
        error = values.std(ddof=1) / np.sqrt(80)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == tuple(pytest.approx(end, abs=4 * noise * error) for end in told)
    assert found["mpxap", "cam", "2 parts"]["ci_low"] == near(min(each["cam"][80:]), 4 * 11)
    assert found["mpxap", "cam", "1-2"]["ci_low"] is None and found["sum", "cam", "all"]["ci_low"] is None


# A whole job


@pytest.fixture(scope="module")
def scored_creatures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cues")
    shards = creatures.write(str(folder / "shards"), images_per_class=2, shards=2)
    pairs = tuple(pair for pair in read(f"{folder}/shards/pairs.json") if pair.b < 8)
    write(f"{folder}/pairs.json", pairs)
    settings = {**creatures.ARGS, "mean": creatures.MEAN, "std": creatures.STD}
    arguments = [f"{key}={','.join(map(str, each)) if isinstance(each, tuple) else each}" for key, each in settings.items()]
    how = {
        "backbone": f"timm/{creatures.NAME}",
        "weights": str(creatures.weights_path()),
        "backbone_args": tuple(arguments),
        "image_size": 128,
        "methods": ("grad_cam", "gradient"),
        "targets": ("label", f"cues=pairs:{folder}/pairs.json"),
        "metrics": ("mpxap", "energy"),
        "task_images": 7,
    }
    assert explain.run(job(shards, folder / "out", **how)).complete
    return folder, shards, how, pairs


def test_a_target_of_pairs_has_a_map_for_the_class_each_partner_and_each_difference(scored_creatures):
    folder, _, _, pairs = scored_creatures
    run = tables.open(str(folder / "out"))
    among = partners(pairs)
    rows = run.sql(
        "SELECT i.label, m.target, m.class_id, m.reference_ids, m.gamma, m.image_id FROM maps m JOIN images i USING (image_id) "
        "WHERE method = 'grad_cam' AND target LIKE 'cues%'"
    ).to_pylist()
    for image, mine in itertools.groupby(sorted(rows, key=lambda row: row["image_id"]), lambda row: row["image_id"]):
        mine = {row["target"]: row for row in mine}
        label = next(iter(mine.values()))["label"]
        expected = {"cues#own": (label, [], None)}
        for k, (other, _) in enumerate(among[label], 1):
            expected |= {f"cues#other_{k}": (other, [], None), f"cues#finer_{k}": (label, [other], 1)}
        assert {name: (row["class_id"], row["reference_ids"], row["gamma"]) for name, row in mine.items()} == expected, image
    seen = {row["label"] for row in rows}
    assert seen == set(among) and len(seen) < 12, "a class in no pair has no map"
    assert run.sql("SELECT * FROM errors").num_rows == 0
    same = run.sql(
        "SELECT a.map AS a, b.map AS b FROM maps a JOIN maps b USING (image_id, method) WHERE a.target = 'label' AND b.target = 'cues#own'"
    ).to_pylist()
    # the own map is that of the label; one step of 255 off where the last digits follow the batch
    assert all(np.abs(np.subtract(row["a"], row["b"])).max() <= 1 for row in same) and len(same) == 2 * 2 * len(seen)
    assert run.manifest["targets"][1]["argument"] == [[a, b, list(parts)] for a, b, parts in pairs]


@pytest.fixture(scope="module")
def in_memory(scored_creatures):
    """The images of the shards as a notebook has them: pixels, labels, index images of parts and their names, points by name."""
    samples = [sample for shard in list_shards(scored_creatures[1]) for sample in sources.read(shard)]
    images = [decode(sample.image, (128, 128), "bilinear") for sample in samples]
    parts = [image.codes(sample.members["parts.png"]) for image, sample in zip(images, samples, strict=True)]
    points = [image.points(sample.points) for image, sample in zip(images, samples, strict=True)]
    return np.stack([image.pixels for image in images]), [sample.label for sample in samples], parts, samples[0].part_names, points


def scored_in_memory(scored_creatures, in_memory, **annotations):
    _, _, how, _ = scored_creatures
    args = tuple(tuple(each.split("=", 1)) for each in how["backbone_args"])
    network = pipeline.Network(how["backbone"], how["weights"], args, None, how["image_size"])
    return pipeline.explain(*in_memory[:2], network, ["grad_cam"], how["targets"], metrics=["mpxap"], batch_size=7, **annotations)


def of_grad_cam(rows) -> dict:
    return {
        (r["target"], r["scope"], r["metric"]): r["mean"] for r in rows if r["method"] == "grad_cam" and r["metric"].startswith("mpxap")
    }


def test_parts_in_memory_score_as_those_of_shards(scored_creatures, in_memory):
    *_, parts, names, _ = in_memory
    tables_of_notebook = scored_in_memory(scored_creatures, in_memory, parts=parts, part_names=names)
    published = tables.open(str(scored_creatures[0] / "out")).table("summary").to_pylist()
    found, expected = of_grad_cam(tables_of_notebook["summary"].to_pylist()), of_grad_cam(published)
    assert found == {key: value and pytest.approx(value, abs=1e-6) for key, value in expected.items()}
    assert sum(value is not None for value in found.values()) > 20
    assert not tables_of_notebook["errors"].num_rows


def test_points_in_memory_are_parts_by_the_nearest_point(scored_creatures, in_memory):
    *_, parts, _, points = in_memory
    names, codes = sorted({part_of(name) or name for each in points for name in each}), []
    for each in points:
        nearest_codes, own = nearest(each, (128, 128))
        codes.append(np.array([0, *(names.index(name) + 1 for name in own)], np.uint8)[nearest_codes])
    both = {"parts": points}, {"parts": codes, "part_names": names}
    masks = [each > 0 for each in parts]
    by_points, by_codes = (scored_in_memory(scored_creatures, in_memory, masks=masks, **annotations) for annotations in both)
    assert by_points["partials"] == by_codes["partials"]
    assert any(value is not None for value in of_grad_cam(by_points["summary"].to_pylist()).values())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([None], "parts of 1 images for 2 images"),
        ([None, np.zeros((8, 8), np.uint8)], "the parts of image 1 are uint8 \\(8, 8\\)"),
        ([np.zeros((64, 64), np.int64), None], "the parts of image 0 are int64"),
        ([np.full((64, 64), 3, np.uint8), None], "it holds 3, and part_names has 2 names"),
    ],
)
def test_parts_in_memory_that_go_with_nothing_are_refused(parts, words):
    backbone = backbones.load("tests.tiny:build", image_size=64)
    with pytest.raises(Refusal, match=words):
        pipeline.explain(np.zeros((2, 3, 64, 64), np.uint8), [0, 1], backbone, ["cam"], parts=parts, part_names=["head", "tail"])


def test_a_method_that_pays_for_every_target_is_asked_only_of_images_with_a_partner(monkeypatch, tmp_path):
    labels, rows = [0, 1, 2, 3, 4, 0], {}
    write(f"{tmp_path}/p.json", [Pair(0, 1, ("tail",)), Pair(0, 2, ("head",)), Pair(0, 3, ("leg",))])

    def counted(method, scene, target):
        rows.setdefault((method.alias, scene.names[target]), []).append(len(scene.pixels))
        return maps(method, scene, target)

    maps = engine.maps
    monkeypatch.setattr(engine, "maps", counted)
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64), dtype=np.uint8)
    found = pipeline.explain(
        images, labels, backbones.load("tests.tiny:build", image_size=64), ["gradient", "grad_cam"], [f"cues=pairs:{tmp_path}/p.json"]
    )
    assert rows["gradient", "cues#own"] == [5] and rows["gradient", "cues#finer_1"] == [5] and rows["gradient", "cues#other_3"] == [2]
    assert rows["grad_cam", "cues#other_3"] == [6]
    for method in ("gradient", "grad_cam"):
        mine = [row for row in found["maps"].to_pylist() if row["method"] == method]
        assert sum(row["target"] == "cues#own" for row in mine) == 5 and len(mine) == 5 + 2 * (2 * 3 + 3 * 1)
    assert not found["errors"].num_rows


def test_mpxap_is_there_for_every_method_target_pair_and_group(scored_creatures):
    folder, _, _, pairs = scored_creatures
    run = tables.open(str(folder / "out"))
    found = run.sql("SELECT * FROM summary WHERE metric LIKE 'mpxap%'").to_pylist()
    maps = [(m, t) for m in ("grad_cam", "gradient") for t in ("label", "cues", "cues#finer")] + [
        ("random", "none"),
        ("fake_cam", "none"),
    ]
    scopes = {"all", *(f"{n} part{'s' * (n > 1)}" for n in {len(pair.parts) for pair in pairs}), *(pair.name for pair in pairs)}
    assert {(row["method"], row["target"], row["metric"], row["scope"]) for row in found} == {
        (*of, metric, scope) for of in maps for metric in ("mpxap", "mpxap_chance") for scope in scopes
    }
    means = {(row["method"], row["target"], row["metric"], row["scope"]): row for row in found}
    for (method, target, metric, scope), row in means.items():
        if "-" in scope:
            assert row["n"] + row["n_null"] == 4, "two images of either class"
        else:
            mean = np.mean(
                [means[method, target, metric, pair.name]["mean"] for pair in pairs if scope == "all" or scope[0] == str(len(pair.parts))]
            )
            assert row["mean"] == near(mean, len(pairs))
        assert row["diff_random"] == near(row["mean"] - means["random", "none", metric, scope]["mean"], len(pairs), size=1)
        assert (row["diff_label"] is not None) == target.startswith("cues")
        if "-" in scope or row["n"] < 2:
            assert row["ci_low"] is row["ci_high"] is row["diff_random_low"] is row["diff_label_low"] is None
        else:
            assert row["ci_low"] <= row["mean"] <= row["ci_high"]
            assert row["diff_random_low"] <= row["diff_random"] <= row["diff_random_high"]
            assert (row["diff_label_low"] is not None) == target.startswith("cues")
    whole = {of: means[*of, "mpxap", "all"]["mean"] for of in maps}
    chance = means["random", "none", "mpxap_chance", "all"]["mean"]
    assert abs(whole["random", "none"] - chance) < 0.02 and abs(whole["fake_cam", "none"] - chance) < 0.01
    assert whole["grad_cam", "cues#finer"] > whole["grad_cam", "label"] > 2 * chance
    other = run.sql("SELECT DISTINCT target FROM metrics").to_pylist()
    assert {row["target"] for row in other} == {"label", "none"}, "other metrics leave the pairs' maps alone"


def test_what_tells_classes_apart_shows_better_in_finer_maps_of_every_gradient_cam(scored_creatures, tmp_path):
    """docs/cues.md has the whole table."""
    _, _, how, _ = scored_creatures
    shards, methods = creatures.write(str(tmp_path / "shards"), images_per_class=4, shards=4), ("grad_cam", "grad_cam_pp", "layer_cam")
    targets = ("label", "finer", f"cues=pairs:{tmp_path}/shards/pairs.json")
    explain.run(job(shards, tmp_path / "out", **{**how, "methods": methods, "targets": targets, "metrics": ("mpxap",), "task_images": 24}))
    run = tables.open(str(tmp_path / "out"))
    rows = run.sql("SELECT * FROM summary WHERE metric = 'mpxap' AND scope = 'all'").to_pylist()
    found = {(row["method"], row["target"]): row for row in rows}
    for method in methods:
        assert found[method, "cues#finer"]["diff_label_low"] > 0, "the difference of two classes, beyond what resampled pairs would have"
        assert found[method, "finer"]["diff_label"] > 0
        assert found[method, "label"]["diff_random_low"] > 0.1


def test_the_pairs_decide_and_not_where_their_file_lies(scored_creatures, tmp_path):
    folder, shards, how, pairs = scored_creatures
    write(f"{tmp_path}/moved.json", pairs)
    short = {**how, "methods": ("random",)}
    assert explain.run(job(shards, folder / "out", **short, name="short")).new
    moved = {**short, "targets": ("label", f"cues=pairs:{tmp_path}/moved.json")}
    assert not explain.run(job(shards, folder / "out", **moved, name="short")).new
    write(f"{tmp_path}/moved.json", pairs[1:])
    assert explain.run(job(shards, folder / "out", **moved, name="short")).new


def test_mpxap_adds_up_over_any_tasks(scored_creatures, tmp_path):
    folder, shards, how, _ = scored_creatures
    explain.run(job(shards, tmp_path, **{**how, "methods": ("random",), "task_images": 5}))
    told = [
        tables.open(str(out)).sql("SELECT * FROM partials WHERE method = 'random' AND metric = 'mpxap' ORDER BY ALL").to_pylist()
        for out in (folder / "out", tmp_path)
    ]
    assert told[0] == told[1] and len(told[0]) > 20


def test_mpxap_of_stored_maps_is_near_that_of_float_maps(scored_creatures):
    folder, shards, how, _ = scored_creatures
    out = str(folder / "out")
    explain.run(job(shards, out, **{**how, "metrics": ()}, name="maps"))
    assert score.run(score.Score(out=out, name="maps", metrics=("mpxap",))).complete
    query = "SELECT method, target, scope, metric, mean FROM summary WHERE metric LIKE 'mpxap%' ORDER BY ALL"
    exact, stored = ([[*row.values()] for row in tables.open(out, name).sql(query).to_pylist()] for name in ("default", "maps"))
    assert [row[:4] for row in stored] == [row[:4] for row in exact] and len(exact) > 20
    for (method, *_, value), (*_, expected) in zip(stored, exact, strict=True):
        if method == "grad_cam":
            assert value == pytest.approx(expected, abs=0.01)


def test_without_pairs_mpxap_is_refused_or_left_out(tmp_path):
    plain = {"methods": ("grad_cam",), "targets": ("label",)}
    (tmp_path / "a.tar").write_bytes(tar_bytes([("x", {"png": encoded(picture(0)), "cls": b"1"})]))
    with pytest.raises(Refusal, match="pairs:FILE"):
        explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", **plain, metrics=("mpxap",)))
    explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", **plain, metrics=("family:localisation",)))
    run = tables.open(str(tmp_path / "out"))
    assert [skipped["metric"] for skipped in run.manifest["skipped"]] == ["mpxap"]
    for name in ("p", "q"):
        write(f"{tmp_path}/{name}.json", [Pair(0, 1, ("tail",))])
    both = {**plain, "targets": (f"p=pairs:{tmp_path}/p.json", f"q=pairs:{tmp_path}/q.json")}
    with pytest.raises(Refusal, match="one file"):
        explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", **both, metrics=("mpxap",)))


def test_counts_by_class_are_those_of_its_images(tmp_path):
    samples = []
    for i in range(6):
        truth = {"label": i % 3, "boxes": [[0.2, 0.1, 0.5 + i / 20, 0.8]]}
        samples.append((f"x{i}", {"png": encoded(picture(i)), "json": json.dumps(truth).encode()}))
    samples.append(("y", {"png": encoded(picture(9)), "json": b'{"boxes": [[0, 0, 1, 0.5]]}'}))
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples))
    (tmp_path / "b.tar").write_bytes(tar_bytes([sample for i, sample in enumerate(samples) if i % 3 == 1]))
    found = {}
    for name in "ab":
        metrics = ("pxap(by_class=true)", "box_acc(by_class=true,step=0.1)", "plain=pxap")
        explain.run(job(str(tmp_path / f"{name}.tar"), tmp_path / name, methods=("random",), targets=(), metrics=metrics))
        found[name] = {
            (row["metric"], row["scope"]): SimpleNamespace(**row)
            for row in tables.open(str(tmp_path / name)).sql("SELECT * FROM summary WHERE method = 'random'").to_pylist()
        }
    assert {scope for metric, scope in found["a"] if metric == "pxap"} == {"all", "0", "1", "2"}
    assert {scope for metric, scope in found["a"] if metric == "plain"} == {"all"}
    for metric in ("pxap", "box_acc"):
        assert (found["a"][metric, "all"].n, found["a"][metric, "1"].n) == (7, 2)
        assert found["a"][metric, "1"].mean == found["b"][metric, "1"].mean == found["b"][metric, "all"].mean


def test_calms_table_of_cues_is_a_line_for_the_plain_network_and_one_for_calm(scored_creatures, tmp_path):
    """Every method of CALM's table 1 on two networks that jobs.train made."""
    folder, shards, _, _ = scored_creatures
    sides = {
        "plain": (
            "cam(norm=minmax)",
            "grad_cam",
            "gradient",
            "integrated_gradients(form=calm,steps=3)",
            "smooth_grad(samples=2)",
            "var_grad(samples=2)",
        ),
        "calm_em": ("calm", "place=calm(map=location)"),
    }
    found = {}
    for head, methods in sides.items():
        train.run(
            Training(
                source=tuple(shards),
                train_split="val",
                classes="12",
                backbone=f"timm/{creatures.NAME}",
                backbone_args=("pretrained=false", "norm_layer=groupnorm1"),
                image_size=32,
                head=head,
                epochs=1,
                val_share=0,
                cache=str(tmp_path / "cache"),
                out=str(tmp_path / head),
            )
        )
        how = {
            "backbone": f"train/{tmp_path}/{head}/checkpoint.safetensors",
            "methods": methods,
            "targets": ("label", f"cues=pairs:{folder}/pairs.json"),
            "metrics": ("mpxap", "log=mpxap(thresholds=log)"),
            "limit": 12,
            "task_images": 12,
        }
        assert explain.run(job(shards, tmp_path / "out", **how, name=head)).complete
        query = "SELECT method, target, metric, mean FROM summary WHERE scope = 'all'"
        rows = tables.open(str(tmp_path / "out"), head).sql(query).to_pylist()
        found |= {(row["method"], row["target"], row["metric"]): row["mean"] for row in rows}
    methods = [
        method.partition("=")[0] if method.startswith("place") else method.partition("(")[0] for each in sides.values() for method in each
    ]
    for method, target in itertools.product(methods, ("label", "cues", "cues#finer")):
        assert 0 < found[method, target, "mpxap"] < 1
        assert found[method, target, "mpxap_chance"] == pytest.approx(found["fake_cam", "none", "mpxap_chance"], abs=0.005)
