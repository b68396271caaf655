"""Shards are listed, indexed and read; images are decoded; what is bad is told and its neighbours are read all the same."""

import datetime
import hashlib
import io
import json
import os
import pickle
import random
import re
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import storage
from pipeline.refusal import Refusal
from pipeline.sources import KINDS, Shard, ShardError, identity, index, list_shards, read
from pipeline.sources import sample as sample_file
from pipeline.sources.decode import PIXEL_LIMIT, Undecodable, clipped_boxes, decode
from pipeline.sources.labels import Classes, folder_names, read_names, resolve
from pipeline.sources.sample import boxes_of, parse_json


def jpeg(number: int = 0, size=(8, 6), ending: str = "JPEG", **options) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), ending, **options)


def encoded(image: Image.Image, ending: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, ending, **options)
    return buffer.getvalue()


def tar(*members, form=tarfile.PAX_FORMAT) -> bytes:
    """A tar of (name, bytes) and of whole TarInfo headers, in order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def good(count: int = 4) -> list[tuple[str, bytes]]:
    return [pair for n in range(count) for pair in ((f"{n:03d}.jpg", jpeg(n)), (f"{n:03d}.cls", b"%d" % n))]


def shard_of(path: Path, content: bytes) -> Shard:
    path.write_bytes(content)
    return list_shards([str(path)])[0]


def errors(samples) -> dict[str, list[str]]:
    return {sample.key: [error for error, _ in sample.problems] for sample in samples if sample.problems}


def shard_errors(shard: Shard) -> list[str]:
    return [problem.error for problem in index(shard).problems]


# What is listed


def test_sources_are_expanded_and_named_below_their_common_prefix(tmp_path):
    for name in ("train/00000.tar", "train/00001.tar", "val/00000.tar", "val/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar(*good(1)))

    def names(*sources):
        return [shard.name for shard in list_shards([f"{tmp_path}/{source}" for source in sources])]

    everything = ["train/00000.tar", "train/00001.tar", "val/00000.tar"]
    assert names("") == names("*/*.tar") == names("train", "val/") == names("{train,val}/*.tar") == names("**/*.tar") == everything
    assert names("val/00000.tar", "train/*.tar", "train/00000.tar") == everything
    assert names("val/*") == names("val") == names("val/00000.tar") == names("val/{00000..00000}.tar") == ["00000.tar"]
    # The pattern decides the name, not what it happens to match today.
    assert names("*/00001.tar") == ["train/00001.tar"]


def test_a_missing_member_of_a_range_is_a_bad_shard_and_its_neighbours_are_read(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar(*good()))
    shards = list_shards([f"{tmp_path}/{{0..12}}.tar"])
    assert len(shards) == 13
    assert shard_errors(shards[0]) == []
    assert shard_errors(shards[1]) == ["NotFound"]
    with pytest.raises(ShardError, match="NotFound"):
        list(read(shards[1], 0, 1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none/*.tar", r"'.*none/\*\.tar' matches nothing"),
        ("none", "matches nothing"),
        ("{0..9}.tar", "nothing exists at .*check the path"),
        ("empty", r"matches nothing that ends in \.jfif \.jpe \.jpeg \.jpg \.parquet \.png \.tar \.webp$"),
        ("a.dat", "no known kind"),
        ("mixed", r"several kinds \(folder, webdataset\); say which"),
        ("{a,b", "brace"),
        ("{0..99999999}.tar", "more than 1,000,000"),
        ("nowhere://x/*.tar", "nowhere"),
    ],
)
def test_what_cannot_be_a_source_is_refused_in_one_line(tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    for name in ("a.dat", "mixed/a.tar", "mixed/b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(Refusal, match=message) as caught:
        list_shards([source if "://" in source else f"{tmp_path}/{source}"])
    assert "\n" not in str(caught.value)


def test_a_store_that_does_not_answer_is_refused_without_its_secrets():
    with pytest.raises(Refusal) as caught:
        list_shards(["http://user:hunter2@127.0.0.1:9/x.tar?X-Amz-Signature=hunter2", "/nowhere/*.tar"])
    assert "hunter2" not in str(caught.value)


def test_stores_without_a_common_prefix_keep_their_shards_apart(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/apart/x.tar", tar(*good(1)))
    (tmp_path / "x.tar").write_bytes(tar(*good(2)))
    shards = list_shards(["memory://apart/x.tar", str(tmp_path / "x.tar")])
    assert [index(shard).count for shard in shards] == [2, 1]
    assert [shard.name for shard in shards] == [f"file{tmp_path}/x.tar", "memory/apart/x.tar"]


def test_a_shard_travels_as_pickle_and_json(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    [shard] = list_shards([str(tmp_path)])
    assert shard == pickle.loads(pickle.dumps(shard)) == Shard.from_json(json.loads(json.dumps(shard.to_json())))


def test_each_kind_claims_endings_of_its_own():
    assert sorted(KINDS) == ["folder", "parquet", "webdataset"], (
        "a new kind of source: add it to this list and to the tests of every kind below, which are "
        "test_every_kind_gives_the_same_samples, test_ranges_add_up_to_one_read, test_identity_follows_content_and_name_and_nothing_else, "
        "test_what_is_wrong_with_a_shard_has_one_name and test_a_store_over_http_gives_what_the_local_folder_gives"
    )


# Folders


def folder(root: Path, names) -> list[Shard]:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"%d" % number)
    return list_shards([str(root)])


def test_a_new_file_changes_one_chunk_of_a_folder_only(tmp_path):
    names = [f"c{n % 7}/{n:05d}.jpg" for n in range(3000)]
    before = {index(shard).identity for shard in folder(tmp_path, names)}
    (tmp_path / "c3/00500x.jpg").write_bytes(b"new")
    shards = list_shards([str(tmp_path)])
    after = {index(shard).identity for shard in shards}
    assert len(before) > 5
    assert len(before - after) == 1
    assert max(len(shard.urls) for shard in shards) <= 1000
    assert len({(shard.name, shard.part) for shard in shards}) == len(shards)
    keys = [sample.key for shard in shards for sample in read(shard)]
    assert keys == sorted([*names, "c3/00500x.jpg"])


def test_a_folder_labels_by_directory_and_skips_what_is_hidden(tmp_path):
    shards = folder(tmp_path / "d", ["b/2.PNG", "a/deep/1.jpg", "a/.x.jpg", ".hidden/3.jpg", "a/4.txt"])
    samples = [sample for shard in shards for sample in read(shard)]
    assert [(sample.key, sample.label) for sample in samples] == [("a/deep/1.jpg", "a"), ("b/2.PNG", "b")]
    assert folder_names(shards) == ("a", "b")
    assert [shard.name for shard in shards] == [""]
    assert shards[0].image_id("a/1.jpg") == "a/1.jpg"
    assert [shard.name for shard in list_shards([f"{tmp_path}/d/a", f"{tmp_path}/d/b"])] == ["a", "b"]
    globbed = list_shards([f"{tmp_path}/d/*/*.PNG"])
    assert [(shard.name, sample.key, sample.label) for shard in globbed for sample in read(shard)] == [("", "b/2.PNG", "b")]
    flat = list_shards([f"{tmp_path}/d/b"])
    assert [sample.label for sample in read(flat[0])] == [None]
    assert index(flat[0]).labelled == 0


def test_a_folder_that_two_sources_name_is_read_once(tmp_path):
    folder(tmp_path, ["a/1.jpg", "b/2.jpg"])
    for sources in ([tmp_path, tmp_path / "a"], [tmp_path / "a", tmp_path]):
        shards = list_shards([str(source) for source in sources])
        assert [shard.image_id(sample.key) for shard in shards for sample in read(shard)] == ["a/1.jpg", "b/2.jpg"]


def test_a_file_that_vanishes_from_a_folder_is_a_bad_image(tmp_path):
    [shard] = folder(tmp_path, ["1.jpg", "2.jpg", "3::x.jpg", "4\n.jpg", "5[a]*.jpg"])
    (tmp_path / "2.jpg").unlink()
    assert index(shard).count == 5
    samples = list(read(shard))
    assert errors(samples) == {"2.jpg": ["NotFound"], "4\\x0a.jpg": ["UnsafeKey"]}
    assert [sample.image for sample in samples] == [b"0", None, b"2", None, b"4"]


def test_a_link_that_leads_back_does_not_hang_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/back").symlink_to(tmp_path)
    [shard] = folder(tmp_path, ["a/1.jpg"])
    assert index(shard).count == 1


# The same through every kind


ANNOTATION = {"label": 7, "label_name": "bird", "boxes": [[0.25, 0.5, 1.25, 1.0]], "parts": {"eye": [0.5, 0.5]}}


def test_every_kind_gives_the_same_samples(tmp_path):
    images = {f"{n:02d}": jpeg(n) for n in range(70)}
    members = [pair for key, image in images.items() for pair in ((f"{key}.jpg", image), (f"{key}.json", json.dumps(ANNOTATION).encode()))]
    (tmp_path / "t").mkdir()
    (tmp_path / "t/x.tar").write_bytes(tar(*members))
    for key, image in images.items():
        (tmp_path / "f/7").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"f/7/{key}.jpg").write_bytes(image)
    rows = {"image": list(images.values()), "label": [7] * 70, "label_name": ["bird"] * 70, "boxes": [ANNOTATION["boxes"]] * 70}
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"key": list(images), **rows}), tmp_path / "p/x.parquet", row_group_size=16)
    tars, files, table = ([s for shard in list_shards([str(tmp_path / kind)]) for s in read(shard)] for kind in "tfp")
    assert [s.image for s in tars] == [s.image for s in files] == [s.image for s in table] == list(images.values())
    assert [s.key for s in tars] == [s.key for s in table] == [s.key.removeprefix("7/").removesuffix(".jpg") for s in files] == list(images)
    assert {s.label for s in tars} == {s.label for s in table} == {7}
    assert {s.label for s in files} == {"7"}
    assert all(s.boxes == [(0.25, 0.5, 1.25, 1.0)] and s.label_name == "bird" for s in [*tars, *table])
    assert tars[0].points == {"eye": (0.5, 0.5)} and not tars[0].annotations
    assert not any(s.problems for s in [*tars, *files, *table])
    assert [sum(index(s).labelled for s in list_shards([str(tmp_path / kind)])) for kind in "tfp"] == [70, 70, 70]


def bad_tar() -> bytes:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return tar(
        *good(3),
        ("000.jpg", jpeg(9)),
        ("lone.cls", b"1"),
        ("../up.jpg", jpeg()),
        ("/etc/abs.jpg", jpeg()),
        ("a/../../b.jpg", jpeg()),
        ("bell\x07.jpg", jpeg()),
        ("<script>alert('x')&amp;.jpg", jpeg()),
        ("run.jpg", jpeg()),
        ("run.pkl", b"cos\nsystem\n(S'false'\ntR."),
        ("run.model.pt", b"x"),
        link,
        ("word.jpg", jpeg()),
        ("word.cls", b"many"),
        ("odd.jpg", jpeg()),
        ("odd.json", b'{"label": true, "boxes": [[0,0,NaN,1],[0,0,1,1],[1,2],"x",[9,9,8,8],[0,0,300,200]]}'),
        ("broken.jpg", jpeg()),
        ("broken.json", b'{"label": '),
        ("same.jpg", jpeg()),
        ("same.jpg", jpeg()),
        ("README", b"no key"),
        ("._mac.jpg", b"x"),
        ("__meta__/note.jpg", b"x"),
        ("dir/last.one.jpg", jpeg()),
        ("dir/two.JPG", jpeg(1)),
        ("dir/two.png", jpeg(2, ending="PNG")),
        ("dir/two.parts.png", b"mask"),
    )


BAD = {
    "lone": ["MissingImage"],
    "../up": ["UnsafeKey"],
    "/etc/abs": ["UnsafeKey"],
    "a/../../b": ["UnsafeKey"],
    "bell\\x07": ["UnsafeKey"],
    "run": ["UnsafeMember", "UnsafeMember"],
    "link": ["NotAFile", "MissingImage"],
    "word": ["BadAnnotation"],
    "odd": ["BadAnnotation", "BadBox", "BadBox", "BadBox", "BadBox", "BadBox"],
    "broken": ["BadAnnotation"],
    "000": ["DuplicateKey"],
    "same": ["DuplicateKey"],
    "dir/last": ["MissingImage"],
}


def test_every_bad_sample_is_told_and_its_neighbours_are_read(tmp_path):
    shard = shard_of(tmp_path / "x.tar", bad_tar())
    samples = list(read(shard))
    assert errors(samples) == BAD
    explained = [sample.key for sample in samples if sample.image is not None]
    assert explained == ["000", "001", "002", "<script>alert('x')&amp;", "run", "word", "odd", "broken", "same", "dir/two"]
    by_key = {sample.key: sample for sample in samples}
    assert by_key["odd"].boxes == [(0.0, 0.0, 1.0, 1.0)]
    assert by_key["dir/two"].image == jpeg(1)
    assert by_key["dir/two"].members == {"png": jpeg(2, ending="PNG"), "parts.png": b"mask"}
    told = index(shard)
    assert (told.count, told.labelled, told.problems) == (len(samples), 4, ())
    assert [samples[position].key for position in told.duplicates] == ["000", "same"]


def test_ranges_add_up_to_one_read(tmp_path):
    content = bad_tar()
    names = tar(*good(250))
    table = io.BytesIO()
    keys = [f"k{n % 90}" for n in range(130)]
    pq.write_table(pa.table({"__key__": keys, "jpg": [b"%d" % n for n in range(130)]}), table, row_group_size=17)
    files = folder(tmp_path / "f", [f"{n}.jpg" for n in range(90)])
    shards = [
        shard_of(tmp_path / "a.tar", content),
        shard_of(tmp_path / "b.tar", names),
        shard_of(tmp_path / "c.parquet", table.getvalue()),
    ]
    chance = random.Random(0)
    for shard in [*shards, *files]:
        told, whole = index(shard), list(read(shard))
        assert told.count == len(whole)
        for hint in (None, told):
            cuts = [0, *sorted(chance.choices(range(told.count + 1), k=4)), told.count]
            pieces = [list(read(shard, *cut, hint)) for cut in pairwise(cuts)]
            assert [sample for piece in pieces for sample in piece] == whole
            with pytest.raises(ShardError, match="ShortRead"):
                list(read(shard, 0, told.count + 1, hint))


def test_identity_follows_content_and_name_and_nothing_else(tmp_path):
    content = tar(*good())
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [jpeg()]}), table)
    for name, data in (("x.tar", content), ("x.parquet", table.getvalue()), ("d/x.jpg", jpeg())):
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        source = str(path.parent) if name == "d/x.jpg" else str(path)
        first = index(list_shards([source])[0]).identity
        os.utime(path, (1, 1))
        assert index(list_shards([source])[0]).identity == first
        moved = tmp_path / "two" / name
        moved.parent.mkdir(parents=True, exist_ok=True)
        moved.write_bytes(data)
        assert index(list_shards([source.replace("/one", "/two")])[0]).identity == first
        changed = path.with_name("y" + path.suffix)
        path.rename(changed)
        assert index(list_shards([source.replace("x.", "y.")])[0]).identity != first
        changed.rename(path)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert index(list_shards([source])[0]).identity != first


# Damaged shards


def test_a_cut_tar_gives_what_is_whole_at_every_cut(tmp_path):
    content = tar(*good(4))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        ends = [member.offset_data + member.size for member in archive][1::2]
    whole = list(read(shard_of(tmp_path / "good.tar", content)))
    for cut in [*range(0, len(content), 97), *(end + extra for end in ends for extra in (-1, 0, 1))]:
        shard = shard_of(tmp_path / "x.tar", content[:cut])
        told = index(shard)
        # Of a single sample nobody can tell whether more of it would have come.
        complete = max(sum(end <= cut for end in ends) - (ends[0] <= cut < ends[1] and cut < ends[0] + 1024), 0)
        assert (told.count, list(read(shard)), list(read(shard, 0, None, told))) == (complete, whole[:complete], whole[:complete])
        if cut < -(-ends[-1] // 512) * 512 + 512:
            assert [problem.error for problem in told.problems] == (["TruncatedShard"] if cut else ["EmptyShard"])
        else:
            assert not told.problems  # only zeros behind the end mark are missing


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("x.tar", b"", "EmptyShard"),
        ("x.tar", bytes(10240), "EmptyShard"),
        ("x.tar", tar(("README", b"x")), "EmptyShard"),
        ("x.tar", b"just some text, not a tar" * 100, "UnreadableShard"),
        ("x.tar", b"\x1f\x8b" + bytes(range(256)) * 4, "UnreadableShard"),
        ("x.tar", tar(*good(2)) + tar(*good(2)), "DamagedShard"),
        ("x.parquet", b"", "EmptyShard"),
        ("x.parquet", b"PAR1 but not really PAR1", "UnreadableShard"),
    ],
)
def test_what_is_wrong_with_a_shard_has_one_name(tmp_path, name, content, error):
    assert shard_errors(shard_of(tmp_path / name, content)) == [error]


def test_damage_in_the_middle_is_told_and_what_comes_before_is_read(tmp_path):
    content = bytearray(tar(*good(4)))
    content[content.index(b"002.jpg") + 3] ^= 1
    shard = shard_of(tmp_path / "x.tar", bytes(content))
    assert (index(shard).count, shard_errors(shard)) == (2, ["DamagedShard"])
    assert [sample.key for sample in read(shard, 0, 2)] == ["000", "001"]


def raw_header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def test_sizes_are_not_believed(tmp_path):
    start = time.monotonic()
    for kind, error in ((tarfile.REGTYPE, "TruncatedShard"), (b"Z", "TruncatedShard"), (tarfile.XHDTYPE, "UnreadableShard")):
        huge = shard_of(tmp_path / "a.tar", raw_header("x.jpg", 1 << 59, kind) + bytes(900))
        assert shard_errors(huge) == [error]
    negative = shard_of(tmp_path / "b.tar", raw_header("x.jpg", -512) + bytes(2048))
    assert shard_errors(negative) == ["UnreadableShard"]
    records = b"2 " * 400_000  # quadratic for a reader that looks for a record's = from each of them
    pax = raw_header("p", len(records), tarfile.XHDTYPE) + records.ljust(-(-len(records) // 512) * 512, b"\0") + tar(*good(1))
    assert index(shard_of(tmp_path / "c.tar", pax)).count == 1
    assert time.monotonic() - start < 2


def test_a_member_that_is_too_large_is_passed_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.sources.webdataset.MEMBER_LIMIT", 5000)
    shard = shard_of(tmp_path / "x.tar", tar(("a.jpg", jpeg()), ("a.blob", bytes(6000)), ("b.jpg", bytes(5001)), ("c.jpg", jpeg())))
    samples = list(read(shard))
    assert errors(samples) == {"a": ["MemberTooLarge"], "b": ["MemberTooLarge", "MissingImage"]}
    assert samples[0].image == samples[2].image == jpeg()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_form_of_tar(tmp_path, form):
    names = ["d" * 90 + "/" + "k" * 80, "größe/鳥"]
    if form != tarfile.USTAR_FORMAT:
        names.append("e/" * 100 + "k" * 300)
    shard = shard_of(tmp_path / "x.tar", tar(*((f"./{name}.jpg", jpeg()) for name in names), form=form))
    assert [sample.key for sample in read(shard)] == names
    assert not errors(read(shard))


def test_a_shard_that_changed_since_it_was_listed_is_not_read(tmp_path):
    shard = shard_of(tmp_path / "x.tar", tar(*good(2)))
    (tmp_path / "x.tar").write_bytes(tar(*good(40)))
    assert shard_errors(shard) == ["ChangedShard"]
    with pytest.raises(ShardError, match="ChangedShard"):
        list(read(shard, 0, 2))


def test_a_store_that_gives_too_little_is_told_and_no_sample_comes_in_part(tmp_path, monkeypatch):
    content = tar(*good(4))
    shard = shard_of(tmp_path / "x.tar", content)
    told, whole = index(shard), list(read(shard))
    monkeypatch.setattr("pipeline.storage.WAITS", ())  # it gives no more the second time
    for cut in range(0, content.index(b"003.cls"), 211):
        monkeypatch.setattr("pipeline.storage.open_read", lambda url, cut=cut: io.BytesIO(content[:cut]))
        assert shard_errors(shard) == ["ShortRead"]
        came = []
        with pytest.raises(ShardError, match="ShortRead"):
            came.extend(read(shard, 0, None, told))
        assert came == whole[: len(came)]


def test_grouping_is_webdatasets_own(realdata):
    from webdataset.tariterators import tarfile_samples

    [shard] = list_shards([f"{realdata}/imagenet_val227/00003.tar"])
    theirs = list(tarfile_samples([{"url": shard.urls[0]}]))
    ours = list(read(shard))
    assert [(sample["__key__"], sample["jpg"], int(sample["cls"])) for sample in theirs] == [(s.key, s.image, s.label) for s in ours]


# Parquet


def test_parquet_takes_the_layouts_people_have(tmp_path):
    struct = pa.array([{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in range(3)] + [{"bytes": None, "path": "/etc/passwd"}])
    boxes = pa.array([[{"x0": 0.0, "y0": 0.0, "x1": 0.5, "y1": 0.5}], [], None, [{"x0": 0.0, "y0": 0.0, "x1": None, "y1": 0.5}]])
    pq.write_table(pa.table({"image": struct, "label": [0.0, 1.0, None, 2.5], "boxes": boxes}), tmp_path / "hf.parquet")
    [shard] = list_shards([str(tmp_path)])
    samples = list(read(shard))
    assert [sample.key for sample in samples] == ["00000000", "00000001", "00000002", "00000003"]
    assert [sample.label for sample in samples] == [0, 1, None, None]
    assert index(shard).labelled == 2
    assert samples[0].boxes == [(0.0, 0.0, 0.5, 0.5)]
    assert errors(samples) == {"00000003": ["MissingImage", "BadAnnotation", "BadBox"]}
    rows = {
        "id": pa.array(["a", "a", "../b", None]),
        "webp": [b"1"] * 4,
        "cls": ["x", None, "1", "2"],
        "json": ['{"weather": 1}', "{", None, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "keys.parquet")
    shard = list_shards([str(tmp_path / "keys.parquet")])[0]
    assert errors(read(shard)) == {"a": ["DuplicateKey"], "../b": ["UnsafeKey"], "00000003": ["UnsafeKey"]}
    odd = pa.table({"png": [b"1"], "label": [datetime.date(2020, 1, 1)], "boxes": ["no"], "json": [{"weather": 1}], "label_name": [1.5]})
    pq.write_table(odd, tmp_path / "odd.parquet")
    [told] = read(list_shards([str(tmp_path / "odd.parquet")])[0])
    assert [error for error, _ in told.problems] == ["BadAnnotation"] * 3
    assert (told.image, told.annotations) == (b"1", {"weather": 1})
    first = next(read(shard, 0, 1))
    assert (first.label, first.annotations) == ("x", {"weather": 1})
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "path.parquet")
    assert shard_errors(list_shards([str(tmp_path / "path.parquet")])[0]) == ["UnreadableShard"]


# S3


def test_a_store_over_http_gives_what_the_local_folder_gives(tmp_path, s3):
    (tmp_path / "t").mkdir()
    for number in range(12):
        (tmp_path / f"t/{number:05d}.tar").write_bytes(bad_tar() if number == 3 else tar(*good(number)))
    table = io.BytesIO()
    pq.write_table(pa.table({"key": [str(n) for n in range(40)], "image": [jpeg(n) for n in range(40)]}), table, row_group_size=7)
    (tmp_path / "p").mkdir()
    (tmp_path / "p/x.parquet").write_bytes(table.getvalue())
    folder(tmp_path / "f", [f"c{n % 3}/{n}.jpg" for n in range(40)])
    (tmp_path / "f/c0/empty.jpg").write_bytes(b"")
    fs, root = storage.filesystem(s3)
    fs.put(str(tmp_path), f"{root}/data", recursive=True)
    for source in ("t/{00000..00013}.tar", "t/*.tar", "t", "p", "f", "f/*/1*.jpg"):
        local, remote = list_shards([f"{tmp_path}/{source}"]), list_shards([f"{s3}/data/{source}"])
        assert [shard.name for shard in local] == [shard.name for shard in remote]
        for here, there in zip(local, remote, strict=True):
            ours, theirs = index(here), index(there)
            assert (ours.count, ours.labelled, ours.problems) == (theirs.count, theirs.labelled, theirs.problems) or here.size == 0
            assert theirs.identity == identity(there) or there.size == 0
            if ours.count:
                cut = ours.count // 2
                assert list(read(here)) == [*read(there, 0, cut, theirs), *read(there, cut, ours.count, theirs)]
    missing = list_shards([f"{s3}/data/t/{{00000..00013}}.tar"])[12:]
    assert [shard_errors(shard) for shard in missing] == [["NotFound"], ["NotFound"]]


def test_a_store_tells_what_changed_by_its_etag(s3):
    fs, root = storage.filesystem(s3)
    fs.pipe(f"{root}/x.tar", tar(*good(2)))
    [first] = list_shards([s3])
    fs.pipe(f"{root}/x.tar", tar(("000.jpg", jpeg(5)), *good(2)[1:]))
    [second] = list_shards([s3])
    assert first.size == second.size
    assert identity(first) != identity(second)
    assert shard_errors(first) == ["ChangedShard"]
    assert not shard_errors(second)
    with pytest.raises(Refusal, match="matches nothing"):
        list_shards([f"{s3}-none/*.tar"])


# The real shards


def test_real_shards_are_read_whole(realdata):
    shards = list_shards([f"{realdata}/imagenet_val227/{{00000..00004}}.tar"])
    told = [index(shard) for shard in shards]
    assert [one.count for one in told] == [one.labelled for one in told] == [100] * 5
    assert not any(one.problems for one in told)
    for sample in read(shards[2], 40, 50, told[2]):
        assert 0 <= sample.label < 1000
        assert sample.boxes
        assert not sample.problems
        assert decode(sample.image, (224, 224)).pixels.shape == (3, 224, 224)
    folders = list_shards([f"{realdata}/imagenet_sample"])
    assert sum(index(shard).count for shard in folders) == 200
    assert len(folder_names(folders)) == 200
    classes = Classes(1000, read_names(f"{realdata}/imagenet_wnids.txt"))
    assert [classes.names[resolve(name, classes)[0]] for name in folder_names(folders)] == list(folder_names(folders))


# Annotations


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe{",
        b'{"a": "\\ud800"}',
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_that_cannot_be_kept_is_told(raw):
    problems = []
    assert parse_json(raw, problems) == {}
    assert [error for error, _ in problems] == ["BadAnnotation"]
    assert "\n" not in problems[0][1]
    assert len(problems[0][1]) < 300


def test_boxes_without_number_are_not_taken():
    problems = []
    assert boxes_of([[0, 0, 1, 1]] * 10_001, problems) == []
    assert [error for error, _ in problems] == ["BadAnnotation"]


def test_large_json_is_not_parsed(monkeypatch):
    monkeypatch.setattr(sample_file, "JSON_LIMIT", 100)
    problems = []
    assert parse_json(json.dumps({"a": "x" * 100}).encode(), problems) == {}
    assert "at most 100" in problems[0][1]


@pytest.mark.parametrize(
    ("members", "label", "error"),
    [
        ({"cls": b"12"}, 12, None),
        ({"cls": b" 12\n", "txt": b"7"}, 12, None),
        ({"txt": b"great auk\n"}, "great auk", None),
        ({"txt": b"7"}, 7, None),
        ({"json": b'{"label": "auk"}', "txt": b"7"}, "auk", None),
        ({"json": b'{"label": 3}', "cls": b"4"}, 4, None),
        ({"json": b'{"label": 3.5}'}, None, "BadAnnotation"),
        ({"cls": b"\xff"}, None, "BadAnnotation"),
        ({"cls": b"1_000"}, None, "BadAnnotation"),
        ({"txt": b"a caption " * 50}, None, "BadAnnotation"),
        ({}, None, None),
    ],
)
def test_labels_are_taken_in_their_order(members, label, error):
    sample = sample_file.sample_of("k", {"jpg": b"x", **members}, [])
    assert sample.label == label
    assert [name for name, _ in sample.problems] == ([error] if error else [])
    assert sample.image == b"x"


def test_labels_become_class_indices(tmp_path):
    ten = Classes(10)
    named = Classes(3, ("0", "10", "auk"))
    assert resolve(None, ten) == (None, None, None)
    assert resolve(3, ten) == resolve("3", ten) == (3, None, None)
    assert resolve("10", named) == (1, "10", None)
    assert resolve(1, named) == (1, "10", None)
    assert resolve("auk", named) == (2, "auk", None)
    for label in (10, -1, "10", 10**30):
        index_, name, (error, message) = resolve(label, ten)
        assert (index_, name, error) == (None, None, "OutOfRangeLabel")
        assert "0 ... 9" in message
    assert resolve("emu", named)[2][0] == resolve("emu", ten)[2][0] == "UnknownLabel"
    (tmp_path / "names.txt").write_text("emu\nauk\n\n")
    assert read_names(str(tmp_path / "names.txt")) == ("emu", "auk")
    for url in (str(tmp_path / "names.txt"), "/nowhere"):
        with pytest.raises(Refusal):
            Classes(3, read_names(url))
    with pytest.raises(Refusal, match="more than once"):
        Classes(2, ("a", "a"))


# Decoding


def near(picture, colour, tolerance: int = 3) -> bool:
    return bool((abs(picture.pixels.astype(int) - np.array(colour).reshape(3, 1, 1)) <= tolerance).all())


@pytest.mark.parametrize(
    ("endings", "mode", "fill", "colour"),
    [
        ("JPEG PNG WEBP", "RGB", (250, 10, 20), (250, 10, 20)),
        ("JPEG", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("JPEG PNG WEBP", "L", 100, (100, 100, 100)),
        ("JPEG PNG", "1", 1, (255, 255, 255)),
        ("PNG", "LA", (100, 0), (100, 100, 100)),
        ("PNG WEBP", "RGBA", (250, 10, 20, 128), (250, 10, 20)),
        ("PNG", "P", 5, (10, 200, 30)),
    ],
)
def test_every_mode_becomes_rgb(endings, mode, fill, colour):
    image = Image.new(mode, (20, 10), fill)
    if mode == "P":
        image.putpalette([0] * 15 + [10, 200, 30])
    for ending in endings.split():
        options = {"exact": True, "lossless": True} if ending == "WEBP" else {}
        picture = decode(encoded(image, ending, **options), (4, 6))
        assert picture.pixels.shape == (3, 4, 6)
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.flags.c_contiguous
        assert (picture.width, picture.height, picture.window) == (20, 10, (0.0, 0.0, 1.0, 1.0))
        assert near(picture, colour)


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(1, 256).repeat(4, axis=0)
    picture = decode(encoded(Image.fromarray(ramp)), (4, 256), "nearest")
    assert (picture.pixels == np.arange(256)).all()


@pytest.mark.filterwarnings("ignore:Palette images")
def test_transparent_palettes_and_animations_show_the_first_frame():
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    for ending in ("PNG", "WEBP"):
        options = {"lossless": True} if ending == "WEBP" else {}
        assert near(decode(encoded(frames[0], ending, save_all=True, append_images=frames[1:], **options), (3, 3)), (255, 0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert near(decode(encoded(palette, transparency=bytes([0, 0])), (2, 2)), (9, 8, 7), 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_rotation_is_applied():
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 40, 10))  # the top half as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the stored top is on the right
    for ending, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})):
        picture = decode(encoded(image, ending, exif=exif, **options), (40, 20), "nearest")
        assert (picture.width, picture.height) == (20, 40)
        assert picture.pixels[0, :, 15:].min() > 240
        assert picture.pixels[2, :, :5].min() > 240
    damaged = encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffnonsense")
    assert decode(damaged, (4, 4)).width == 40


def test_the_centre_is_cut_as_timm_cuts_it():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 400, 3), dtype=np.uint8)
    picture = decode(encoded(Image.fromarray(pixels)), (224, 224), "bicubic", "center", 0.875)
    resized = Image.fromarray(pixels).resize((512, 256), Image.Resampling.BICUBIC).crop((144, 16, 368, 240))
    assert (picture.pixels == np.asarray(resized).transpose(2, 0, 1)).all()
    assert picture.window == (144 / 512, 16 / 256, 368 / 512, 240 / 256)
    # The window is 0.28125 ... 0.71875 wide and 0.0625 ... 0.9375 high.
    boxes = picture.boxes([(0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 0.28, 1.0), (-1.0, -1.0, 2.0, 2.0), (0.28125, 0.0625, 0.5, 0.5)])
    assert np.allclose(boxes, [(0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5)])
    assert clipped_boxes([(-0.5, 0.25, 0.5, 1.5)], (0.0, 0.0, 1.0, 1.0)) == [(0.0, 0.25, 0.5, 1.0)]


def test_thin_images_are_decoded_and_do_not_grow_on_the_way():
    for size in ((1, 1), (1, 9000), (9000, 1)):
        image = encoded(Image.new("RGB", size, (9, 8, 7)))
        start = time.monotonic()
        assert near(decode(image, (16, 24), "bicubic", "center", 0.9), (9, 8, 7), 0)
        assert near(decode(image, (16, 24)), (9, 8, 7), 0)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (b"", "EmptyImage"),
        (b"this is a text file\n" * 20, "UnknownFormat"),
        (encoded(Image.new("RGB", (5, 5)), "GIF"), "UnknownFormat"),
        (encoded(Image.new("RGB", (5, 5)), "TIFF"), "UnknownFormat"),
        (jpeg(size=(60, 60))[:-200], "TruncatedImage"),
        (jpeg(size=(60, 60))[:60], "TruncatedImage"),
        (jpeg(size=(60, 60), ending="PNG")[:-200], "TruncatedImage"),
        (jpeg(size=(60, 60), ending="WEBP")[:-200], "TruncatedImage"),
        (jpeg(size=(60, 60), ending="PNG").replace(b"IDAT", b"IDAT" + bytes(40), 1), "UndecodableImage"),
    ],
    ids=["zero bytes", "text", "gif", "tiff", "cut jpeg", "cut jpeg header", "cut png", "cut webp", "broken png"],
)
def test_what_cannot_be_decoded_has_one_name(image, error):
    with pytest.raises(Undecodable) as caught:
        decode(image, (8, 8))
    assert caught.value.error == error
    assert "\n" not in caught.value.message


def test_a_decompression_bomb_is_refused_by_its_header():
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    small = jpeg(ending="PNG")
    bomb = small[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + small[33:]
    start = time.monotonic()
    with pytest.raises(Undecodable) as caught:
        decode(bomb, (8, 8))
    assert caught.value.error == "TooManyPixels"
    assert PIXEL_LIMIT < 20000 * 20000
    assert time.monotonic() - start < 1


# Fuzz: whatever the bytes, nothing crashes or hangs, and index and read agree


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6)  # (place, byte put there)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
IMAGE_ERRORS = {"EmptyImage", "UnknownFormat", "TruncatedImage", "TooManyPixels", "UndecodableImage"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, st.integers(0, 10**6))
def test_mutated_tars_are_read_as_far_as_they_are_whole(tmp_path, changes, cut):
    content = bytearray(bad_tar())
    for place, value in changes:
        content[place % len(content)] = value
    shard = shard_of(tmp_path / "x.tar", bytes(content[: cut % len(content)] if cut % 3 == 0 else content))
    told = index(shard)
    samples = list(read(shard, 0, told.count, told))
    assert told.count == len(samples)
    assert samples == list(read(shard))
    for sample in samples:
        sample.key.encode()
        assert sample.image is not None or sample.problems
        assert not re.search(r"[\x00-\x1f]", sample.key)


@settings(max_examples=150, deadline=None)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4)))
def test_any_json_gives_boxes_or_problems(value):
    problems = []
    raw = json.dumps({"boxes": value, "label": value}).encode()
    sample = sample_file.sample_of("k", {"jpg": b"x", "json": raw}, problems)
    assert sample.image == b"x"
    assert all(len(box) == 4 and box[0] < box[2] and box[1] < box[3] for box in sample.boxes)
    assert len(boxes_of(value if isinstance(value, list) else [], [])) <= (len(value) if isinstance(value, list) else 0)
    assert sample.label is None or (isinstance(sample.label, int | str) and not isinstance(sample.label, bool))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), CHANGES, st.integers(0, 10**6))
def test_mutated_images_are_decoded_or_told(ending, changes, cut):
    image = bytearray(jpeg(size=(24, 17), ending=ending))
    for place, value in changes:
        image[place % len(image)] = value
    told = set()
    try:
        picture = decode(bytes(image[: cut % len(image)] if cut % 2 else image), (8, 8))
    except Undecodable as error:
        told = {error.error}
    assert told <= IMAGE_ERRORS
    assert told or picture.pixels.shape == (3, 8, 8)


def test_content_hashes_are_sha256_of_the_file(tmp_path):
    content = tar(*good())
    shard = shard_of(tmp_path / "x.tar", content)
    assert index(shard).identity == shard.identity(hashlib.sha256(content).hexdigest())
