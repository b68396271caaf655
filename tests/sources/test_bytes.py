"""Bytes that are sound are read: wide pixels, PNGs with one bad chunk, names with brackets; and messages are the same in every run."""

import io
import json
import struct
import tarfile
import warnings
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import explain
from jobs import pack as pack_job
from pipeline import storage, tables
from pipeline.datasets.layouts import Record
from pipeline.datasets.packing import Pack
from pipeline.datasets.packing.sample import Item, members
from pipeline.datasets.packing.shard import fingerprint
from pipeline.refusal import Refusal, one_line
from pipeline.sources import index, list_shards, read
from pipeline.sources.decode import PNG, Undecodable, decode
from pipeline.spec.job import Job
from tests.shards import encoded, good, picture, tar_bytes

# Pixels wider than 8 bits


RAMP = np.linspace(0, 65535, 512).round().astype(np.uint16).reshape(1, 512).repeat(8, 0)


def tiff(values: np.ndarray) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


def packed(image: bytes, ending: str, resize: int | None = 8) -> np.ndarray:
    """The pixels [3 H W] of an image after packing."""
    record = Record(f"a.{ending}", 0, "train", "here")
    [content] = [value for name, value in members(Item("a", "wren", record), "folder", [image], resize).items() if name in ("jpg", "png")]
    size = Image.open(io.BytesIO(content)).size[::-1]
    return decode(content, size).pixels


@pytest.mark.parametrize(
    ("image", "ending"),
    [
        (encoded(Image.fromarray(RAMP)), "png"),
        (tiff(RAMP), "tif"),
        (tiff(RAMP.astype(np.int32)), "tif"),
        (tiff((RAMP // 257).astype(np.int32)), "tif"),
        (tiff(RAMP.astype(np.float32)), "tiff"),
        (tiff((RAMP / 65535).astype(np.float32)), "tiff"),
        (tiff((RAMP / 257).astype(np.float32)), "tiff"),
        (b"P5 512 8 65535\n" + RAMP.astype(">u2").tobytes(), "pgm"),
    ],
    ids=["png", "tiff", "tiff of 32 bits", "tiff of 32 bits up to 255", "fractions up to 65535", "up to 1", "up to 255", "pgm"],
)
def test_a_ramp_of_wide_pixels_is_packed_as_a_ramp(image, ending):
    pixels = packed(image, ending)
    assert pixels.mean() == pytest.approx(127.5, abs=0.5)
    assert np.abs(pixels - np.linspace(0, 255, 512)).max() < 4, "but for the JPEG"


@pytest.mark.parametrize("high", [65535, 40000, 300])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_way_shows_a_wide_png_alike(mode, high):
    grey = (RAMP.astype(np.uint32) * high // 65535).astype(np.uint16)
    image = wide_png(grey, mode)
    size = (8, 512)
    shown = decode(image, size, "nearest").pixels.astype(int)
    assert np.abs(shown - grey / 257).max() <= 1
    assert (packed(image, "png", None) == shown).all()
    assert np.abs(packed(image, "png") - shown).max() < 6, "but for the JPEG"


def wide_png(grey: np.ndarray, mode: str) -> bytes:
    """A PNG of 16 bits, its alpha full; Pillow writes grey ones alone."""
    colour = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}[mode]
    channels = [grey] * (3 if "RGB" in mode else 1) + [np.full_like(grey, 65535)] * ("A" in mode)
    lines = np.stack(channels, -1).astype(">u2").reshape(len(grey), -1)
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 16, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND")


@pytest.mark.parametrize(
    "values", [RAMP.astype(np.int32) * 2, -RAMP.astype(np.int32), np.full((2, 2), np.nan, np.float32)], ids=["wider", "negative", "NaN"]
)
def test_pixels_that_mean_no_grey_are_told(values):
    with pytest.raises(Exception, match=r"cannot be decoded: its pixels go from .* 0 to 65535 can be shown"):
        packed(tiff(values), "tif")


def test_shards_of_images_that_may_be_wide_are_packed_again_and_no_others():
    def of(path, resize):
        return fingerprint([Item("a", "wren", Record(path, 1, "train", "images.txt:1"))], [[["12", "34"]]], "cub", resize)

    for path, resize, again in (
        ("a.jpg", 64, False),
        ("a.png", None, False),
        ("a.png", 64, True),
        ("a.TIF", 64, True),
        ("a.JPEG", 8, False),
    ):
        assert (of(path, resize) != plain_fingerprint(path, resize)) is again


def plain_fingerprint(path: str, resize: int | None) -> str:
    """As shards had it before wide pixels were told apart."""
    import hashlib
    from dataclasses import asdict

    described = [["a", "wren", asdict(Record(path, 1, "train", "images.txt:1"))]]
    return hashlib.sha256(json.dumps([1, "cub", resize, described, [[["12", "34"]]]], sort_keys=True).encode()).hexdigest()


def test_a_wide_picture_keeps_its_greys_from_folder_to_shard(tmp_path):
    folder = tmp_path / "root" / "train" / "wren"
    folder.mkdir(parents=True)
    (folder / "ramp.png").write_bytes(encoded(Image.fromarray(RAMP)))
    pack_job.run(Pack(root=str(tmp_path / "root"), out=str(tmp_path / "out"), resize=8, workers=0))
    [shard] = (tmp_path / "out").glob("*.tar")
    with tarfile.open(shard) as tar:
        [name] = [name for name in tar.getnames() if name.endswith(".jpg")]
        assert decode(tar.extractfile(name).read(), (8, 512)).pixels.mean() == pytest.approx(127.5, abs=0.5)


# Damaged chunks


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
BIG = zlib.compress(bytes(3 << 20))
CHUNKS = {  # as they should be
    b"gAMA": struct.pack(">I", 45455), b"cHRM": struct.pack(">8I", *[31270] * 8), b"sRGB": b"\0", b"pHYs": struct.pack(">IIB", 1, 1, 1),
    b"iCCP": b"n\0\0" + zlib.compress(b"a" * 200), b"tEXt": b"k\0v", b"zTXt": b"k\0\0" + zlib.compress(b"v"), b"iTXt": b"k\0\0\0\0\0v",
    b"tIME": bytes(7), b"bKGD": bytes(6), b"sBIT": bytes(3), b"eXIf": b"MM\0*\0\0\0\x08\0\0", b"tRNS": bytes(6), b"hIST": bytes(6),
    b"acTL": struct.pack(">II", 1, 0), b"fcTL": bytes(26), b"fdAT": bytes(6), b"cICP": bytes(4), b"xxXx": b"a",
}  # fmt: skip
OVERSIZED = {b"zTXt": b"k\0\0" + BIG, b"iTXt": b"k\0\1\0\0\0" + BIG, b"iCCP": b"n\0\0" + BIG, b"tEXt": b"k\0" + b"a" * (3 << 20)}


def chunk(kind: bytes, content: bytes = b"", check: int | None = None) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) if check is None else check)


def with_chunk(extra: bytes, before: bytes = b"IDAT", **options) -> bytes:
    """A PNG with one more chunk before its pixels or behind them."""
    image = encoded(Image.fromarray(PIXELS), **options)
    place = image.index(before) - 4
    return image[:place] + extra + image[place:]


DAMAGES = {
    **{f"{kind.decode()} {how}": damaged for kind, sound in CHUNKS.items() for how, damaged in (
        ("empty", chunk(kind)), ("cut", chunk(kind, sound[: len(sound) // 2])), ("of another sum", chunk(kind, sound, 1)),
        ("of junk", chunk(kind, bytes(range(200, 256)))), ("in order", chunk(kind, sound)),
    )},
    **{f"{kind.decode()} oversized": chunk(kind, content) for kind, content in OVERSIZED.items()},
}  # fmt: skip


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"], ids=["before", "behind"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_png_with_sound_pixels_is_read_whatever_its_other_chunks_hold(damage, place):
    image = with_chunk(DAMAGES[damage], place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (decode(image, (20, 30), "nearest").pixels.transpose(1, 2, 0) == PIXELS).all()
        assert np.abs(packed(image, "png", 20).astype(int).mean() - PIXELS.mean()) < 2


def test_a_damaged_chunk_does_not_turn_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    for damage in (DAMAGES["iCCP oversized"], DAMAGES["gAMA of another sum"]):
        for place in (b"eXIf", b"IDAT"):
            assert (
                decode(with_chunk(damage, place, exif=exif), (30, 20), "nearest").pixels.transpose(1, 2, 0) == np.rot90(PIXELS, -1)
            ).all()


def segments():
    """Segments of a JPEG that are not its pixels, full of junk."""
    for marker in (*range(0xE0, 0xF0), 0xFE):
        for start in (
            b"",
            b"Exif\0\0",
            b"ICC_PROFILE\0\1\1",
            b"JFIF\0",
            b"MPF\0",
            b"Photoshop 3.0\0",
            b"Adobe\0",
            b"http://ns.adobe.com/xap/1.0/\0",
        ):
            content = start + bytes(range(200, 256))
            yield bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def test_a_jpeg_with_sound_pixels_is_read_whatever_its_other_segments_hold():
    image = encoded(Image.fromarray(PIXELS), "JPEG", quality=95)
    sound = decode(image, (20, 30), "nearest").pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for segment in segments():
            if segment[4:9] != b"Adobe":  # which says how its colours are meant
                assert (decode(image[:2] + segment + image[2:], (20, 30), "nearest").pixels == sound).all()


def test_damage_of_the_pixels_stays_an_error_under_its_name():
    image = with_chunk(DAMAGES["zTXt oversized"])
    pixels = image.index(b"IDAT")
    for damaged, error in (
        (image[: pixels + 300], "TruncatedImage"),
        (image[: pixels + 4] + bytes(60) + image[pixels + 64 :], "UndecodableImage"),
        (image[:16] + b"\xff\xff" + image[18:], "UndecodableImage"),
        (image[:20], "TruncatedImage"),
        (PNG, "TruncatedImage"),
        (PNG + b"\xff" * 400 + b"IEND\0\0\0\0", "UndecodableImage"),
    ):
        with pytest.raises(Undecodable) as caught:
            decode(damaged, (8, 8))
        assert caught.value.error == error


def test_no_message_holds_an_address_of_memory():
    assert one_line(ValueError(f"cannot use {object()} and {print}")) == "cannot use <object object> and <built-in function print>"
    assert str(Refusal(f"{object()} is no network")) == "<object object> is no network"
    for image in (
        PNG + b"\0" * 99 + b"IEND1234",
        b"\xff\xd8\xff" + b"junk" * 9 + b"\xff\xd9",
        b"RIFF\x10\0\0\0WEBPVP8 \4\0\0\0junk",
        b"GIF89a",
    ):
        told = set()
        for _ in range(2):
            with pytest.raises(Undecodable) as caught:
                decode(image, (8, 8))
            told.add(str(caught.value))
            with pytest.raises(Exception, match="cannot be") as caught:
                packed(image, "png")
            assert "0x" not in str(caught.value)
        assert len(told) == 1 and "0x" not in told.pop()


# Names that look like patterns


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path, s3):
    return {"local": str(tmp_path), "memory": f"memory://{tmp_path.name}", "s3": s3}[request.param]


def put(url: str, content: bytes) -> None:
    fs, path = storage.filesystem(url)
    if storage.is_local(url):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, content)


@pytest.mark.parametrize("name", ["run [1]", "a[!b]c", "x[0-9]y", "[1]/[2]", "[", "]["])
def test_brackets_in_the_name_of_a_folder_are_its_name_in_every_store(store, name):
    root = f"{store}/{name}"
    for n in range(2):
        put(f"{root}/classes/c{n}/{n}.png", encoded(picture(n, 8)))
        put(f"{root}/tars/0000{n}.tar", tar_bytes([("a", good(n))]))
    put(f"{root}/odd/[0].tar", tar_bytes([("a", good(1))]))
    for source, shards in (("tars", 2), ("tars/*.tar", 2), ("tars/0000[1-9].tar", 1), ("tars/{00000..00001}.tar", 2), ("odd/[0].tar", 1)):
        found = list_shards([f"{root}/{source}"])
        assert len(found) == shards and not any("/" in shard.name for shard in found)
        assert all(index(shard).count == 1 and [sample.key for sample in read(shard)] == ["a"] for shard in found)
    for source in ("classes", "classes/*/*.png", "cl*/*/*.png", "classes/c[0-9]"):
        found = [sample for shard in list_shards([f"{root}/{source}"]) for sample in read(shard)]
        assert [(sample.label, sample.image is not None) for sample in found][:2] == [("c0", True), ("c1", True)] or source == "cl*/*/*.png"
        assert len(found) == 2


def test_a_pattern_still_is_one_where_no_folder_has_its_name(store):
    for n in range(3):
        put(f"{store}/part{n}/0.tar", tar_bytes([("a", good(n))]))
    assert [shard.name for shard in list_shards([f"{store}/part[12]/*.tar"])] == ["part1/0.tar", "part2/0.tar"]


@pytest.mark.parametrize("name", ["out [1]", "x*y?[!z]"])
def test_a_run_in_a_bucket_answers_questions_whatever_its_folder_is_called(s3, name):
    put(f"{s3}/a.tar", tar_bytes([("a", good(1))]))
    explain.run(Job(source=(f"{s3}/a.tar",), backbone="tests.tiny:build", image_size=32, workers=0, out=f"{s3}/{name}"))
    run = tables.open(f"{s3}/{name}")
    assert run.sql("SELECT count(*) AS n FROM maps JOIN images USING (image_id)").to_pylist() == [{"n": 1}]


@pytest.mark.parametrize(
    "source", ["zip://*::{here}/x.zip", "zip://a/*.jpg::s3://bucket/x.zip", "tar://*::{here}/x.tar", "simplecache::zip://*::{here}/x.zip"]
)
def test_what_lies_inside_an_archive_is_refused_with_the_way_out(tmp_path, source):
    for place in (lambda url: list_shards([url]), lambda url: pack_job.run(Pack(root=url, out=str(tmp_path / "out"), workers=0))):
        with pytest.raises(Refusal, match="lies inside an archive.*unpack it"):
            place(source.format(here=tmp_path))


def test_a_name_with_two_colons_is_a_name(store):
    put(f"{store}/a::b/x::y.tar", tar_bytes([("a", good(1))]))
    assert [index(shard).count for shard in list_shards([f"{store}/a::b"])] == [1]


# Columns of bytes


def test_every_type_that_bytes_come_in_is_read(tmp_path):
    images = [encoded(picture(n, 8)) for n in range(2)]
    longest = max(map(len, images))
    padded = [image + bytes(longest - len(image)) for image in images]  # behind its end a PNG may go on
    numbers = [list(image) for image in padded]
    signed = [[number - 256 if number > 127 else number for number in image] for image in numbers]
    columns = [
        *(pa.array(padded, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(longest))),
        *(pa.array(numbers, kind) for kind in (pa.list_(pa.uint8()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), longest))),
        pa.array(signed, pa.list_(pa.int8())),
        pa.array(padded).dictionary_encode(),
        pa.array([{"bytes": image} for image in padded], pa.struct([("bytes", pa.binary(longest))])),
        pa.array([{"bytes": image, "path": "a"} for image in numbers], pa.struct([("bytes", pa.list_(pa.uint8())), ("path", pa.string())])),
    ]
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"image": column, "label": [0, 1]}), tmp_path / f"{number:02}.parquet")
    for shard in list_shards([str(tmp_path)]):
        samples = list(read(shard, 0, None, index(shard)))
        assert [sample.image for sample in samples] == padded, shard.name
        assert not any(sample.problems for sample in samples)
        assert all(decode(sample.image, (8, 8)).pixels.shape == (3, 8, 8) for sample in samples)


def test_lists_of_numbers_are_images_under_the_name_of_one_alone(tmp_path):
    numbers = pa.array([list(encoded(picture(0, 8))), [1, None], None], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"image": numbers}), tmp_path / "a.parquet")
    assert [[error for error, _ in sample.problems] for sample in read(list_shards([str(tmp_path / "a.parquet")])[0])] == [
        [], ["MissingImage"], ["MissingImage"],
    ]  # fmt: skip
    pq.write_table(pa.table({"embedding": numbers}), tmp_path / "b.parquet")
    assert [problem.error for problem in index(list_shards([str(tmp_path / "b.parquet")])[0]).problems] == ["UnreadableShard"]
