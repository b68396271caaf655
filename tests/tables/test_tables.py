"""Maps as they are stored, files that are replaced whole, receipts and published runs."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.maps import render as rendering
from pipeline.maps.quantise import dequantise, quantise, summaries
from pipeline.refusal import Refusal
from pipeline.tables import files, open, overlay, publish, receipts, render, schema
from pipeline.tables.identity import digest, seed_of
from tests.conditioning import DOUBLE, FACTOR, STEP, UNIT, agree

MAPS = arrays(np.float32, (3, 4, 5), elements=st.floats(-1e3, 1e3, width=32))


@given(MAPS)
def test_a_stored_map_is_off_by_at_most_half_a_step(maps):
    codes, low, high = quantise(maps)
    for code, lo, hi, original in zip(codes, low, high, maps, strict=True):
        half, size = STEP / 2 * (float(hi) - float(lo)), max(abs(float(lo)), abs(float(hi)))
        restored = dequantise(code.ravel(), lo, hi, 4, 5)
        assert np.abs(restored - original).max() <= half + FACTOR * max(UNIT * size, 2.0**-149), "2^-149: the smallest number there is"


@given(MAPS, st.floats(0.1, 100))
def test_summaries_of_shape_ignore_scale(maps, scale):
    maps = np.where(np.abs(maps) < 1e-30, np.float32(0), maps)  # scaled down, such numbers leave float32's normal range and lose digits
    ours, scaled = summaries(maps), summaries((maps * np.float32(scale)).astype(np.float32))
    for name, most in (("entropy", np.log(20) + 1), ("gini", 1)):  # by how much they change per relative change of all cells
        np.testing.assert_allclose(ours[name], scaled[name], rtol=0, atol=4 * UNIT * most)


def test_summaries_by_hand():
    one_hot, flat, empty = np.zeros((2, 4)), np.full((2, 4), 3.0), np.zeros((2, 4))
    one_hot[1, 2] = 5
    found = summaries(np.stack([one_hot, flat, empty]))
    assert found["mean"].tolist() == [5 / 8, 3, 0]
    np.testing.assert_allclose(found["entropy"], [0, np.log(8), np.nan], **DOUBLE)
    np.testing.assert_allclose(found["gini"], [7 / 8, 0, np.nan], **DOUBLE)
    assert (found["peak_x"][0], found["peak_y"][0]) == (2.5 / 4, 1.5 / 2)


def test_identity_does_not_depend_on_the_order_of_keys_and_seeds_fit_63_bits():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1}) != digest({"a": 1, "b": [3, 2]})
    assert all(0 <= seed_of(0, "random", i) < 2**63 for i in range(100))
    assert len({seed_of(0, "random", i) for i in range(100)}) == 100


def maps_table(count: int, side: int = 14) -> pa.Table:
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, side)
    blobs = [np.exp(-((grid - x) ** 2)[None] / s - ((grid - y) ** 2)[:, None] / s) for x, y, s in rng.random((count, 3)) + [0, 0, 0.02]]
    stack = np.stack(blobs) + 0.02 * rng.standard_normal((count, side, side))
    codes, low, high = quantise(stack)
    rows = {
        "image_id": [f"imagenet/val/{i // 1000:05}.tar/ILSVRC2012_val_{i:08}" for i in range(count)],
        "model": ["timm/vit_tiny_patch16_224"] * count,
        "method": ["grad_cam"] * count,
        "target": ["finer"] * count,
        "class_id": rng.integers(0, 1000, count),
        "reference_ids": list(rng.integers(0, 1000, (count, 3))),
        "gamma": [0.6] * count,
        "height": [side] * count,
        "width": [side] * count,
        "map": list(codes.reshape(count, -1)),
        "map_min": low,
        "map_max": high,
        "render": ["bilinear"] * count,
        **summaries(stack),
    }
    return pa.table([pa.array(rows[f.name], f.type) for f in schema.MAPS], schema=schema.MAPS)


def test_a_map_of_14_by_14_costs_at_most_300_bytes_with_its_keys():
    table = maps_table(10_000)
    assert len(receipts.parquet_bytes([table])) / len(table) <= 300


@pytest.mark.parametrize("how", ["bilinear", "area"])
def test_a_constant_map_renders_to_zero_and_a_varying_one_fills_the_unit_range(how):
    row = {"map": [7] * 4, "map_min": 2.0, "map_max": 2.0, "height": 2, "width": 2, "render": how}
    assert not render(row, (8, 8)).any()
    row |= {"map": [0, 255, 0, 0], "map_max": 5.0}
    image = render(row, (8, 8))
    assert (image.min(), image.max()) == (0, 1)
    assert np.unravel_index(image.argmax(), image.shape)[0] < 4 <= np.unravel_index(image.argmax(), image.shape)[1]


def test_averaging_down_keeps_the_mean_and_paints_back_as_blocks():
    import torch

    maps = torch.rand(2, 56, 56)
    small = rendering.reduce(maps, 7)
    agree(lambda maps: rendering.reduce(maps, 7).mean((1, 2)), maps, lambda maps: maps.mean((1, 2)))
    agree(lambda small: rendering.reduce(rendering.upsample(small, (56, 56), "area"), 7), small, small)


@pytest.mark.parametrize("how", ["bilinear", "area", "gaussian:3:norm"])
def test_what_drawing_makes_of_a_constant_map_is_constant(how):
    """Interpolation in float32 leaves rounding, which is not to be taken for a map, whatever its scale."""
    import torch

    rng = np.random.default_rng(0)
    for value in (rng.random(40) - 0.5) * 10.0 ** rng.integers(-6, 6, 40):
        cells, size = rng.integers(4, 40, 2), tuple(rng.integers(40, 256, 2).tolist())
        drawn = rendering.upsample(torch.full((1, *cells), value, dtype=torch.float32), size, how)
        assert not rendering.unit(drawn[0].numpy()).any() and not rendering.units(drawn).any()


@given(MAPS)
def test_a_batch_is_brought_to_the_unit_range_map_by_map(maps):
    import torch

    found = rendering.units(torch.from_numpy(maps)).numpy()
    assert np.array_equal(found, np.stack([rendering.unit(each) for each in maps]))
    for each, own in zip(found, maps, strict=True):
        assert not each.any() or (each.min(), each.max()) == (0, 1)
        assert not each.any() or (each.flat[own.argmax()], each.flat[own.argmin()]) == (1, 0)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_not_taken_for_a_constant_one(odd):
    import torch

    maps = np.ones((3, 3, 3), np.float32)
    maps[0, 1, 1], maps[1] = odd, odd
    assert [np.isfinite(rendering.unit(each)).all() for each in maps] == [False, False, True]
    assert rendering.units(torch.from_numpy(maps)).isfinite().all(2).all(1).tolist() == [False, False, True]


def test_an_unknown_render_is_refused():
    with pytest.raises(Refusal, match="bilinear"):
        render({"map": [0], "map_min": 0, "map_max": 0, "height": 1, "width": 1, "render": "cubist"})


def test_overlay_leaves_cold_pixels_alone_and_colours_hot_ones():
    row = {"map": [0, 255], "map_min": 0.0, "map_max": 1.0, "height": 1, "width": 2, "render": "area"}
    picture = np.full((10, 20, 3), 100, np.uint8)
    drawn = np.asarray(overlay(row, picture))
    assert drawn.shape == picture.shape
    assert (drawn[:, :10] == 100).all()
    assert (drawn[:, 10:] != 100).any()


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """A writable place: a folder, and a bucket behind a real S3 server over HTTP."""
    return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('s3')}/atlas"


def receipt_of(out: str, cells=("a", "b")) -> receipts.Receipt:
    image = pa.Table.from_pylist([{"image_id": "x"}, {"image_id": "y"}], schema.IMAGES)
    error = schema.errors([{"image_id": "z", "stage": "decode", "error": "Truncated", "message": "cut"}])
    answers = [(cells[0], "images", image, error), (cells[1], "images", image.slice(1), schema.errors([]))]
    return receipts.land(out, "feed" * 8, answers, {"shard": "s"})


def test_a_receipt_names_each_cell_and_leads_back_to_its_rows(tmp_path):
    out = str(tmp_path)
    receipt = receipt_of(out)
    assert receipts.load(out) == [receipt]
    assert receipts.unpack(receipts.pack([receipt])) == [receipt]
    file = receipts.fetch(out, receipt, "images")
    assert file.read_row_group(receipt.cells["b"].group)["image_id"].to_pylist() == ["y"]
    assert receipts.fetch(out, receipt, "errors").read_row_group(receipt.cells["a"].error_group)["image_id"].to_pylist() == ["z"]
    assert receipt.cells["b"].error_group == -1


def test_a_replayed_call_writes_the_same_names_and_bytes(tmp_path):
    out = str(tmp_path)
    before = receipt_of(out)
    content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert receipt_of(out) == before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == content


def test_copies_of_a_call_that_land_at_once_leave_one_whole_receipt(place):
    """Speculative copies and late writers: whoever looks meanwhile finds nothing yet, or all of it."""
    with ThreadPoolExecutor(4) as pool:
        landing = [pool.submit(receipt_of, place) for _ in range(12)]
        looks = [receipts.load(place) for _ in range(6)]
    [receipt] = receipts.load(place)
    assert all(look in ([], [receipt]) for look in looks)
    assert {copy.result().to_json() for copy in landing} == {receipt.to_json()}
    assert receipts.fetch(place, receipt, "images").read()["image_id"].to_pylist() == ["x", "y", "y"]
    assert len(files.below(place)) == 3, "images, errors and the receipt"


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_file_is_found(tmp_path, damage):
    out = str(tmp_path)
    receipt = receipt_of(out)
    path = tmp_path / receipt.files["images"]["path"]
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-9] if damage == "cut" else content[:50] + bytes([content[50] ^ 1]) + content[51:])
    with pytest.raises(receipts.Damaged, match="images.parquet"):
        receipts.fetch(out, receipt, "images")


def test_a_file_is_replaced_only_from_the_version_that_was_read(place):
    url = f"{place}/current.json"
    assert files.read_versioned(url) == (None, None)
    assert files.replace(url, b"one", None)
    assert not files.replace(url, b"two", None), "somebody was faster"
    content, version = files.read_versioned(url)
    assert content == b"one"
    assert files.replace(url, b"two", version)
    assert not files.replace(url, b"three", version)
    assert files.read_versioned(url)[0] == b"two"


def test_jobs_that_publish_under_different_names_at_once_all_win(place):
    names = [f"name{i}" for i in range(4)]
    threads = [threading.Thread(target=publish.flip, args=(place, name, f"run-{name}", None)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert publish.current(place) == {name: f"run-{name}" for name in names}


def test_of_two_jobs_under_one_name_the_second_is_told(place):
    publish.flip(place, "nightly", "first", None)
    with pytest.raises(publish.Overtaken, match="second"):
        publish.flip(place, "nightly", "second", None)
    assert publish.current(place) == {"nightly": "first"}


def test_a_store_without_conditional_writes_needs_a_promise():
    with pytest.raises(Refusal, match="single-writer"):
        files.replace("memory://there/current.json", b"{}", None)
    assert files.replace("memory://there/current.json", b"{}", None, single_writer=True)


def test_opening_what_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(Refusal, match="jobs.explain"):
        open(str(tmp_path))
    (tmp_path / "current.json").write_text(json.dumps({"resnet": "gone"}))
    with pytest.raises(Refusal, match="resnet"):
        open(str(tmp_path), "resnets")
    with pytest.raises(Refusal, match="gone"):
        open(str(tmp_path), "resnet")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Refusal, match="cannot be written"):
        files.check_writable(str(tmp_path / "file" / "out"))
