"""Masks, parts and splits: read with their image, brought to what is shown of it, and told where they are damaged."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs import explain
from pipeline import tables
from pipeline.sources import list_shards, read
from pipeline.sources.decode import Undecodable, decode
from pipeline.sources.images import ImageRow, pack_rows, unpack_rows
from pipeline.sources.sample import part_names_of, points_of
from tests.jobs import job
from tests.shards import encoded, good, picture, tar_bytes

TRUTH = {"label": 1, "split": "test", "parts": {"beak": [0.3, 0.2], "tail": None}, "part_names": ["head", "tail"]}


def members(mask, parts=None, truth=TRUTH, image=None):
    found = {"png": encoded(image or picture(0)), "json": json.dumps(truth).encode()}
    each = {"mask.png": mask, "parts.png": parts}
    return found | {name: content for name, content in each.items() if content is not None}


def codes(array, mode="L"):
    image = Image.fromarray(np.asarray(array, np.uint8))
    if mode == "P":
        image = image.convert("P")
        image.putpalette([0, 0, 0, 9, 9, 9, 200, 10, 20])
    return encoded(image)


@pytest.mark.parametrize(("crop", "crop_pct"), [("squash", 1.0), ("center", 1.0), ("center", 0.875)])
@pytest.mark.parametrize("size", [(375, 500), (501, 333), (301, 301)])
def test_an_annotation_is_where_its_pixels_are(crop, crop_pct, size):
    """An image that is its own mask: after the same geometry each colour is still under its code."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 2, (size[0] // 8 + 1, size[1] // 8 + 1)), np.ones((8, 8)))[: size[0], : size[1]].astype(np.uint8)
    shown = decode(encoded(Image.fromarray(blocks * 255)), (40, 48), "nearest", crop, crop_pct)
    found = shown.codes(codes(blocks * 255))
    assert np.array_equal(found, shown.pixels[0])
    assert np.array_equal(shown.codes(codes(blocks, "P")) * 255, found), "codes, not colours"
    assert np.array_equal(shown.codes(encoded(Image.fromarray(blocks * 255).convert("1"))), found)
    twice = shown.codes(codes(np.kron(blocks, np.ones((2, 2)))))
    assert (twice * 255 == found).mean() > 0.9, "an annotation may have a size of its own"


@pytest.mark.parametrize(("crop", "crop_pct"), [("squash", 1.0), ("center", 0.8)])
@settings(max_examples=25, deadline=None)
@given(x=st.floats(0, 0.999), y=st.floats(0, 0.999))
def test_a_point_goes_where_its_pixel_goes(crop, crop_pct, x, y):
    size = (60, 90)
    dot = np.zeros(size, np.uint8)
    dot[int(y * size[0]), int(x * size[1])] = 1
    shown = decode(encoded(Image.fromarray(dot)), (60, 60), "nearest", crop, crop_pct)
    found = shown.points({"eye": (x, y)})
    inside = shown.window[0] <= x < shown.window[2] and shown.window[1] <= y < shown.window[3]
    assert (set(found) == {"eye"}) == inside
    spots = np.argwhere(shown.codes(codes(dot)))
    if found and len(spots):
        distance = np.abs((spots + 0.5) / 60 - found["eye"][::-1]).max(1)
        assert distance.min() <= 1.5 / 60 / min(1, shown.window[2] - shown.window[0])


@pytest.mark.parametrize(
    ("png", "error"),
    [
        (b"", "EmptyImage"),
        (codes(np.random.default_rng(0).integers(0, 256, (90, 90)))[:4000], "TruncatedImage"),
        (b"GIF89a" * 9, "UnknownFormat"),
        (encoded(picture(0), "JPEG"), "UndecodableImage"),
        (encoded(picture(0)), "BadMask"),
        (encoded(Image.fromarray(np.ones((9, 9), np.uint16))), "BadMask"),
    ],
)
def test_what_is_no_annotation_has_one_name(png, error):
    with pytest.raises(Undecodable) as told:
        decode(encoded(picture(0)), (32, 32)).codes(png)
    assert told.value.error == error


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x),
    )
)
def test_any_json_gives_parts_or_problems(value):
    problems = []
    points, names = points_of(value, problems), part_names_of(value, problems)
    assert all(isinstance(number, float) and np.isfinite(number) for point in points.values() for number in point)
    assert all(isinstance(name, str) for name in names)
    assert all("\n" not in message and len(message) < 300 for _, message in problems)


def test_parts_that_cannot_be_seen_are_left_out_and_others_told():
    problems = []
    given = {"eye": [0.5, 0.25], "tail": None, "wing": [0.1], "leg": [7000, 3], "back": ["a", 0]}
    assert points_of(given, problems) == {"eye": (0.5, 0.25)}
    assert [error for error, _ in problems] == ["BadPoint"] * 3
    assert part_names_of(["a"] * 256, problems) == () and problems[-1][0] == "BadAnnotation"


def test_tars_and_parquet_carry_the_same_annotations(tmp_path):
    mask, parts = codes(np.eye(8) * 255), codes(np.eye(8) * 2)
    (tmp_path / "a.tar").write_bytes(tar_bytes([("x", members(mask, parts))]))
    columns = {"key": ["x"], "png": [encoded(picture(0))], "mask.png": [mask], "parts.png": [parts]}
    pq.write_table(pa.table(columns | {name: [value] for name, value in TRUTH.items()}), tmp_path / "b.parquet")
    one, two = (next(read(list_shards([str(tmp_path / name)])[0])) for name in ("a.tar", "b.parquet"))
    assert one == two
    assert (one.split, one.points, one.part_names) == ("test", {"beak": (0.3, 0.2)}, ("head", "tail"))
    assert one.members == {"mask.png": mask, "parts.png": parts} and not one.problems


def test_codes_travel_packed():
    rng = np.random.default_rng(0)
    names = {1: ("mask", "silhouette"), 3: ("mask", "parts")}
    codes = iter(rng.integers(0, 256, (4, 6, 8), dtype=np.uint8))
    rows = [
        ImageRow(image_id=f"{i}", key=f"{i}", boxes=[], part_names=["head"], **{name: next(codes) for name in names.get(i, ())})
        for i in range(4)
    ]
    told, content = pack_rows(rows)
    for row, same in zip(rows, unpack_rows(json.loads(json.dumps(told)), content, (6, 8)), strict=True):
        assert {name: repr(value) for name, value in vars(row).items()} == {name: repr(value) for name, value in vars(same).items()}
    assert unpack_rows(*pack_rows(rows[:1]), (6, 8)) == rows[:1]


def test_points_speak_for_all_that_any_annotator_marked(tmp_path):
    """CUB's masks are grey by how many of five marked a pixel. CALM resizes them by the library's own filter and keeps what is above zero."""
    y, x = np.mgrid[:150, :200]
    votes = sum(((x - 90 - 3 * i) ** 2 / 60**2 + (y - 70) ** 2 / (40 - 2 * i) ** 2 < 1) * 51 for i in range(5)).astype(np.uint8)
    shard = tar_bytes([("x", members(codes(votes), image=Image.new("RGB", (200, 150)), truth={"label": 1, "parts": {"beak": [0.5, 0.5]}}))])
    (tmp_path / "a.tar").write_bytes(shard)
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": [{"classes": [0, 1], "parts": ["head"]}]}))
    about = {"methods": ("grad_cam",), "targets": (f"cues=pairs:{tmp_path}/pairs.json",), "metrics": ("mpxap", "pxap")}
    explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", **about))
    counts = tables.open(str(tmp_path / "out")).sql("SELECT DISTINCT metric, list_sum(values) AS n FROM partials WHERE kind = 'positive'")
    found = {row["metric"]: row["n"] for row in counts.to_pylist()}
    shown = decode(encoded(Image.fromarray(votes)), (64, 64))
    assert found["mpxap"] == (np.asarray(Image.fromarray(votes).resize((64, 64))) > 0).sum() == shown.silhouette(codes(votes)).sum()
    assert (np.asarray(Image.fromarray(votes).resize((64, 64))) > 127).sum() < (shown.codes(codes(votes)) > 0).sum() < found["mpxap"]


@pytest.mark.parametrize(("crop", "crop_pct"), [("squash", 1.0), ("center", 0.875)])
def test_a_silhouette_is_where_its_object_is(crop, crop_pct):
    """It holds every pixel whose surroundings are the object's, and none that has no object near."""
    y, x = np.mgrid[:120, :180]
    disc = (((x - 100) ** 2 + (y - 50) ** 2) < 35**2) * 255
    shown = decode(encoded(Image.fromarray(disc.astype(np.uint8))), (40, 48), crop=crop, crop_pct=crop_pct)
    silhouette, inside = shown.silhouette(codes(disc)), shown.codes(codes(disc)) > 0
    from scipy.ndimage import binary_dilation, binary_erosion

    assert (silhouette >= binary_erosion(inside)).all() and (silhouette <= binary_dilation(inside, iterations=2)).all()
    assert 0 < silhouette.sum() < silhouette.size


def test_a_damaged_annotation_is_told_and_its_image_goes_on_without_it(tmp_path):
    half = codes(np.repeat([[255, 0]], 2, 0))
    samples = [
        ("sound", members(half, codes([[1, 2]]))),
        ("damaged", members(b"no png", codes([[1, 2]]))),
        ("beyond", members(half, codes([[1, 3]]))),
        ("plain", good(1)),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples))
    outcome = explain.run(
        job(str(tmp_path / "a.tar"), tmp_path / "out", methods=("grad_cam",), targets=("label",), metrics=("pxap", "energy"))
    )
    assert outcome.counts["explained"] == 4
    run = tables.open(str(tmp_path / "out"))
    told = run.sql("SELECT key, split, has_mask FROM images ORDER BY key").to_pylist()
    assert [tuple(row.values()) for row in told] == [
        ("beyond", "test", True), ("damaged", "test", False), ("plain", None, False), ("sound", "test", True),
    ]  # fmt: skip
    errors = run.sql("SELECT image_id, stage, error, message FROM errors ORDER BY image_id").to_pylist()
    assert [(row["image_id"], row["stage"], row["error"]) for row in errors] == [
        ("a.tar/beyond", "decode", "BadMask"), ("a.tar/damaged", "decode", "UnknownFormat"),
    ]  # fmt: skip
    assert errors[1]["message"].startswith("mask.png: ")
    counts = run.sql("SELECT kind, list_sum(values) AS n FROM partials WHERE method = 'grad_cam'").to_pylist()
    assert {row["kind"]: row["n"] for row in counts} == {
        "n": 3, "n_null": 1, "null: no box": 1, "positive": 2 * 2048 + 512, "negative": 2 * 2048 + 4096 - 512,
    }  # fmt: skip
