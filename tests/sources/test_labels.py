"""Labels and files mean what their owner meant, or the job says so: tables, folders, links, patterns, splits and the order of classes."""

import csv
import hashlib
import io
import json
import random
import tarfile
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import train as job_train
from pipeline import sources, storage
from pipeline.datasets.packing import Pack, pack
from pipeline.plan.check import check_job
from pipeline.refusal import Refusal
from pipeline.sources import Index, Shard, index, list_shards, read
from pipeline.sources.labels import Classes, are_numbers, in_number_order, resolve
from pipeline.sources.sample import sample_of
from pipeline.sources.splits import NAMES, SPLIT_OF, split_folders, split_of
from pipeline.train.data import ImageSpec, use_of
from tests.jobs import job, training
from tests.layouts import MINIATURES, photo, put
from tests.shards import encoded, good, picture, tar_bytes


def images(root: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        photo(root / name, seed)


def told(*sources: object) -> dict[str, tuple]:
    """Image id -> label and split, of every sample."""
    shards = list_shards([str(source) for source in sources])
    return {shard.image_id(sample.key): (sample.label, sample.split) for shard in shards for sample in read(shard)}


# Folders as sources


TREE = ("cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg", "emu/4.jpg")


def _linked_classes(place: Path) -> Path:
    images(place / "real", *TREE)
    for name in ("cat", "dog"):
        (place / "linked" / name).parent.mkdir(exist_ok=True)
        (place / "linked" / name).symlink_to(place / "real" / name)
    images(place / "linked", "emu/4.jpg")
    return place / "linked"


def _linked_root(place: Path) -> Path:
    images(place / "real", *TREE)
    (place / "linked").symlink_to(place / "real")
    return place / "linked"


def _linked_twice(place: Path) -> Path:
    """A class is a link to a link, and a folder in it is one that is named from where it lies."""
    images(place / "real", *TREE)
    (place / "deep").mkdir()
    (place / "real/cat/deep").rename(place / "deep/below")
    (place / "real/cat/deep").symlink_to("../../deep/below")
    (place / "dogs").symlink_to(place / "real/dog")
    (place / "linked").mkdir()
    for name, goal in (("cat", "real/cat"), ("dog", "dogs"), ("emu", "real/emu")):
        (place / "linked" / name).symlink_to(place / goal)
    return place / "linked"


LINKS = (_linked_classes, _linked_root, _linked_twice)


@pytest.mark.parametrize("build", LINKS)
@pytest.mark.parametrize("pattern", ["", "/*", "/{cat,dog,emu}", "/**"])
def test_a_linked_folder_is_the_folder(tmp_path, build, pattern):
    linked = build(tmp_path)
    assert told(f"{linked}{pattern}") == {name: (name.split("/")[0], None) for name in TREE}


@pytest.mark.parametrize("build", LINKS)
def test_a_linked_class_is_packed(tmp_path, build):
    linked = build(tmp_path)
    content = pack(Pack(root=str(linked), out=str(tmp_path / "out"), workers=0))
    assert content["images"] == len(TREE) and content["classes"] == 3 and not content["left_out"]


def test_links_that_lead_around_end(tmp_path):
    """To the folder above, to themselves, to each other, and out of the dataset and back."""
    images(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/self").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/a/b").symlink_to(tmp_path / "data/b")
    (tmp_path / "data/b/a").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/b/out").symlink_to(tmp_path)
    (tmp_path / "data/lost").symlink_to(tmp_path / "nowhere")
    assert told(tmp_path / "data") == {"a/1.jpg": ("a", None), "a/b/2.jpg": ("a", None), "b/2.jpg": ("b", None), "b/a/1.jpg": ("b", None)}
    assert pack(Pack(root=str(tmp_path / "data"), out=str(tmp_path / "out"), workers=0))["images"] == 4


@pytest.mark.parametrize("pattern", ["/n0*", "/n0?", "/*", "/*/", "/{n01,n02}", "/n0[12]", "/**", "/*/*", "/*/*.jpg", ""])
def test_a_pattern_of_class_folders_keeps_their_labels(tmp_path, pattern):
    images(tmp_path / "root", "n01/a.jpg", "n01/deep/b.jpg", "n02/c.jpg")
    expected = {name: (name.split("/")[0], None) for name in ("n01/a.jpg", "n01/deep/b.jpg", "n02/c.jpg")}
    if pattern == "/*/*.jpg":
        del expected["n01/deep/b.jpg"]
    assert told(f"{tmp_path}/root{pattern}") == expected


def test_patterns_and_splits_are_the_same_in_a_bucket(tmp_path, s3):
    images(tmp_path, "n/n01/a.jpg", "n/n01/deep/b.jpg", "n/n02/c.jpg", "n/n02/.d.jpg", "s/train/cat/1.jpg", "s/dev/dog/2.jpg")
    storage.filesystem(s3)[0].put(f"{tmp_path}/", f"{s3}/labels/", recursive=True)
    for pattern in ("n/n0*", "n/{n01,n02}", "n/*", "n/*/*", "n", "s", "s/*/*", "s/{train,dev}"):
        assert told(f"{s3}/labels/{pattern}") == told(f"{tmp_path}/{pattern}"), pattern
    assert (
        packed(f"{s3}/labels/s", tmp_path / "there", skip_missing=True)[1:]
        == packed(tmp_path / "s", tmp_path / "here", skip_missing=True)[1:]
    )


def test_folders_deep_in_a_pattern_are_the_classes(tmp_path):
    images(tmp_path, "site1/n01/a.jpg", "site2/n01/b.jpg", "site2/n02/c.jpg")
    assert {name: label for name, (label, _) in told(f"{tmp_path}/*/n0*").items()} == {
        "site1/n01/a.jpg": "n01",
        "site2/n01/b.jpg": "n01",
        "site2/n02/c.jpg": "n02",
    }


def test_class_folders_that_are_named_one_by_one_are_told(tmp_path, caplog):
    """As a shell names them where the pattern has no quotes."""
    images(tmp_path, "n01/a.jpg", "n02/b.jpg")
    assert told(tmp_path / "n01", tmp_path / "n02") == {"n01/a.jpg": (None, None), "n02/b.jpg": (None, None)}
    assert f"2 folders in {tmp_path} are sources, and no classes" in caplog.text
    caplog.clear()
    told(f"{tmp_path}/n0*")
    told(tmp_path / "n01")
    assert not caplog.text


@pytest.mark.parametrize("pattern", ["part*", "{part1,part2}"])
def test_a_pattern_of_datasets_keeps_the_labels_in_them(tmp_path, pattern):
    images(tmp_path, "part1/cat/1.jpg", "part2/dog/2.jpg")
    assert told(f"{tmp_path}/{pattern}") == {"part1/cat/1.jpg": ("cat", None), "part2/dog/2.jpg": ("dog", None)}


@pytest.mark.parametrize("pattern", ["*", "*/*", "**", "*/*.jpg", "**/*.jpg", "c*"])
def test_a_pattern_matches_nothing_hidden_unless_it_says_so(tmp_path, pattern):
    images(tmp_path / "d", "cat/1.jpg", "cat/.2.jpg", ".cat/3.jpg", "cat/._1.jpg", "cat/.deep/4.jpg")
    assert told(f"{tmp_path}/d/{pattern}").keys() == {"cat/1.jpg"}
    assert [image.rpartition("/")[2] for image in told(f"{tmp_path}/d/.c*/*.jpg")] == ["3.jpg"]
    (tmp_path / "t").mkdir()
    for name in ("0.tar", "._0.tar"):
        (tmp_path / "t" / name).write_bytes(tar_bytes([("a", good(0))]))
    assert [shard.name for shard in list_shards([f"{tmp_path}/t/*.tar"])] == ["0.tar"]


@pytest.mark.parametrize(("train", "other"), list(product(("train", "Training"), [n for s in ("val", "test") for n in NAMES[s]])))
def test_folders_of_splits_are_no_classes(tmp_path, train, other, caplog):
    images(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{other}/dog/3.jpg")
    split = SPLIT_OF[other]
    assert told(tmp_path) == {
        f"{train}/cat/1.jpg": ("cat", "train"),
        f"{train}/dog/2.jpg": ("dog", "train"),
        f"{other}/dog/3.jpg": ("dog", split),
    }
    assert "taken for splits" in caplog.text
    assert sorted(sources.labels.folder_names(list_shards([str(tmp_path)]))) == ["cat", "dog"]


SPLIT_TREES = {
    "copies": (("train/train/cat/1.jpg", "test/test/dog/2.jpg"), ["cat", "dog"]),
    "longer names": (("seg_train/seg_train/cat/1.jpg", "seg_test/seg_test/dog/2.jpg"), ["cat", "dog"]),
    "years": (("train2017/cat/1.jpg", "val2017/dog/2.jpg"), ["cat", "dog"]),
    "sets": (("training_set/cat/1.jpg", "test_set/dog/2.jpg"), ["cat", "dog"]),
    "no classes": (("train/1.jpg", "test/2.jpg"), [None, None]),
    "one split": (("test/cat/1.jpg", "test/dog/2.jpg"), ["cat", "dog"]),
    "a class called train": (("bus/1.jpg", "train/2.jpg"), ["bus", "train"]),
    "trains": (("bullet_train/1.jpg", "steam_train/2.jpg"), ["bullet_train", "steam_train"]),
    "one class called train": (("train/1.jpg", "train/2.jpg"), ["train", "train"]),
    "screens": (("dev/1.jpg", "prod/2.jpg"), ["dev", "prod"]),
}


@pytest.mark.parametrize("name", SPLIT_TREES)
def test_split_folders_are_told_from_classes(tmp_path, name):
    names, labels = SPLIT_TREES[name]
    images(tmp_path, *names)
    found = told(tmp_path)
    assert [found[name][0] for name in names] == labels


def test_splits_beside_folders_that_are_none_are_refused(tmp_path):
    images(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "extra/cat/3.jpg")
    with pytest.raises(Refusal, match=r"its folders train and val are splits and 'extra' is none; name those that are meant, as .*/train"):
        list_shards([str(tmp_path)])
    assert told(tmp_path / "train", tmp_path / "extra") == {"train/cat/1.jpg": ("cat", None), "extra/cat/3.jpg": ("cat", None)}


def test_split_names_are_one_list():
    assert all(split_of(f" {name.upper()} ") == split for name, split in SPLIT_OF.items())
    assert split_of("fold1") is None and split_of("") is None
    assert split_folders([]) == {} and split_folders(["train", "cat"]) == {} and split_folders(["train_a", "test_b"]) == {}
    assert split_folders(["cars_train", "cars_test"]) == {"cars_train": "train", "cars_test": "test"}


@pytest.mark.parametrize("source", ["", "/*", "/*/*", "/{a,b}"])
def test_files_that_are_not_read_are_counted_by_ending(tmp_path, source, caplog):
    images(tmp_path, "a/1.jpg", "b/2.JFIF", "b/3.jpe")
    for name in ("a/4.bmp", "b/5.TIF", "a/6.bmp", "b/README", "a/.hidden.gif"):
        put(tmp_path / name, b"x")
    assert told(f"{tmp_path}{source}").keys() == {"a/1.jpg", "b/2.JFIF", "b/3.jpe"}
    text = " ".join(record.getMessage() for record in caplog.records)
    if source == "/{a,b}":
        assert "2 .bmp;" in text and "1 .tif, 1 without ending;" in text
    else:
        assert "files that are not read: 2 .bmp, 1 .tif, 1 without ending; those read end in .jfif .jpe" in text
    assert ".gif" not in text


def test_a_source_of_nothing_that_is_read_says_what_is_there(tmp_path):
    put(tmp_path / "a.bmp", b"x")
    put(tmp_path / "b.BMP", b"x")
    with pytest.raises(Refusal, match=r"matches nothing that ends in .*; it has 2 \.bmp"):
        list_shards([str(tmp_path)])


# Labels of samples


@pytest.mark.parametrize("text", ["3", "3.0", "3.", "+3", "3.000"])
def test_a_whole_number_is_a_class_number_however_it_is_written(text, tmp_path):
    """A shard with labels that were once refused is another one, so that nothing stored without them is taken for done."""
    for name, members in (
        ("cls", {"cls": text.encode()}),
        ("json", {"json": b'{"label": %s}' % text.strip("+").replace("3.000", "3e0").encode()}),
    ):
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes([("k", {"jpg": b"x", **members})]))
    for name in ["cls"] + ["json"] * (text != "3."):  # which is no JSON
        [shard] = list_shards([f"{tmp_path}/{name}.tar"])
        [sample] = read(shard)
        digest = hashlib.sha256(Path(shard.urls[0]).read_bytes()).hexdigest()
        assert (sample.label, sample.problems, index(shard).labelled) == (3, (), 1)
        assert (index(shard).identity == shard.identity(digest)) == (text in ("3", "+3"))


def test_a_text_that_is_a_number_with_a_point_says_the_way_out():
    assert resolve("3.0", Classes(2, ("3.1", "3.0"))) == (1, "3.0", None)
    for classes in (Classes(5), Classes(5, tuple("abcde"))):
        assert resolve("3", classes)[0] == 3
        assert "; class 3 is written without a point" in resolve("3.0", classes)[2][1]


@pytest.mark.parametrize(
    ("members", "way"),
    [
        ({"json": b'{"label": true}'}, "write 0 for false and 1 for true"),
        ({"json": b'{"label": 2.5}'}, "write a class number from 0, or a class name"),
        ({"json": b'{"label": [1]}'}, "write a class number from 0, or a class name"),
        ({"cls": b"wren"}, "write a class number from 0, or a name into txt or json"),
        ({"cls": b"2.5"}, "write a class number from 0, or a name into txt or json"),
    ],
)
def test_a_label_that_is_none_says_the_way_out(members, way):
    sample = sample_of("k", {"jpg": b"x", **members}, [])
    [(error, message)] = sample.problems
    assert sample.label is None and error == "BadAnnotation" and way in message
    assert sample_of("k", {"jpg": b"x", "json": b'{"label": 3.0}'}, []).label == 3


BYTES = [b"1", b"2", b"1"]
PARQUET = {
    **{name: {name: BYTES} for name in ("image", "jpg", "img", "image_bytes", "picture", "photo of the day")},
    "path beside bytes": {"image": ["a", "b", "c"], "image_bytes": BYTES},
    "key of bytes": {"key": [b"a", b"b", b"c"], "content": BYTES},
    "dictionary": {"image": pa.array(BYTES).dictionary_encode()},
    "struct": {"scan": pa.array([{"bytes": data, "path": "x"} for data in BYTES])},
    "large": {"scan": pa.array(BYTES, pa.large_binary())},
}


@pytest.mark.parametrize("name", PARQUET)
def test_a_column_of_images_is_found_by_name_or_as_the_only_one(tmp_path, name):
    pq.write_table(pa.table({**PARQUET[name], "label": [0, 1, 0]}), tmp_path / "a.parquet")
    [shard] = list_shards([str(tmp_path)])
    assert not index(shard).problems
    assert [(sample.image, sample.label, sample.problems) for sample in read(shard)] == [(b"1", 0, ()), (b"2", 1, ()), (b"1", 0, ())]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"front": BYTES, "back": BYTES}, ["back, front hold bytes", "name one of them image"]),
        ({"image": ["a.jpg"]}, ["'image' holds string"]),
        ({"label": [1]}, ["none holds bytes", "label"]),
    ],
)
def test_no_column_or_several_say_the_way_out(tmp_path, columns, words):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    [problem] = index(list_shards([str(tmp_path)])[0]).problems
    assert problem.error == "UnreadableShard" and all(word in problem.message for word in words)


# The order of classes


def test_numbers_in_names_are_compared_as_numbers():
    names = [str(number) for number in range(120)] + [f"class_{number}" for number in range(120)]
    random.Random(0).shuffle(names)
    numbers, words = ([name for name in names if are_numbers([name]) is kind] for kind in (True, False))
    assert in_number_order(sorted(numbers)) == tuple(map(str, range(120)))
    assert in_number_order(sorted(words)) == tuple(f"class_{number}" for number in range(120))
    assert in_number_order(sorted(["9" * 5000, "10" * 40, "x", "2"])) is not None  # of which no number is made
    for fine in (["a", "b"], ["001", "002", "010"], ["n01440764", "n01443537"], list("0123456789"), []):
        assert in_number_order(fine) is None


def folders(root: Path, names) -> str:
    for seed, name in enumerate(names):
        put(root / name / "1.png", encoded(picture(seed)))
    return str(root)


def checked(source: str, out: Path, count: int = 12, **changes):
    return check_job(job(source, out, backbone_args=(f"num_classes={count}",), methods=("grad_cam",), **changes))


NUMBERS = [str(number) for number in range(12)]


@pytest.mark.parametrize("names", [NUMBERS, [str(number) for number in range(1, 13)], [str(2**number) for number in range(12)]])
def test_folders_that_are_numbers_need_a_file_where_their_order_decides(tmp_path, names, caplog):
    source = folders(tmp_path / "root", names)
    with pytest.raises(
        Refusal, match=r"the folders are numbers: class \d+ is '\d+' in their order and '\d+' in that of text.*--classes FILE"
    ):
        checked(source, tmp_path / "out", targets=("label",))
    unlabelled = checked(source, tmp_path / "out", targets=("predicted",))
    assert (unlabelled.classes, unlabelled.names_are_labels) == (Classes(12), False) and "go without a label" in caplog.text
    for order in (names, sorted(names)):
        put(tmp_path / "classes.txt", list(order))
        asked = checked(source, tmp_path / "out", targets=("label",), classes=str(tmp_path / "classes.txt"))
        assert [resolve(name, asked.classes)[0] for name in order] == list(range(12))


@pytest.mark.parametrize(
    "names", [list("0123456789"), [f"{n:02}" for n in range(12)], ["b", "a", "c"], [f"class {n:02}" for n in range(12)]]
)
def test_folders_in_the_only_order_there_is_are_classes_as_ever(tmp_path, names, caplog):
    asked = checked(folders(tmp_path / "root", names), tmp_path / "out", len(names), targets=("label",))
    assert (asked.classes, asked.names_are_labels) == (Classes(len(names), tuple(sorted(names))), True)
    assert "order of text" not in caplog.text


def test_a_source_one_folder_above_the_classes_says_so(tmp_path):
    folders(tmp_path / "root" / "images", ["cat", "dog"])
    with pytest.raises(Refusal, match=r"1 classes \(is 'images' the folder that theirs lie in\?\) and the network has 2"):
        checked(str(tmp_path / "root"), tmp_path / "out", 2, targets=("label",))


def test_numbers_in_the_names_of_folders_are_told(tmp_path, caplog):
    asked = checked(folders(tmp_path / "root", [f"class{n}" for n in range(12)]), tmp_path / "out", targets=("label",))
    assert asked.classes.names[:3] == ("class0", "class1", "class10")
    assert "in the order of text, 'class10' before 'class2'; --classes FILE gives another" in caplog.text


def test_folders_that_a_file_of_classes_does_not_name_are_told(tmp_path, caplog):
    put(tmp_path / "classes.txt", ["cat", "dog", "emu"])
    source = folders(tmp_path / "root", ["cat", "dgo", "2", "3"])
    checked(source, tmp_path / "out", 3, targets=("label",), classes=str(tmp_path / "classes.txt"))
    assert "2 of 4 folders are named as no class of --classes" in caplog.text and "'3', 'dgo'; their images" in caplog.text


# Splits of a training


@pytest.mark.parametrize("name", SPLIT_OF)
def test_a_split_is_used_by_any_of_its_names(name):
    assert use_of(name, "train") == use_of(name.title(), "Training") == SPLIT_OF[name]
    assert use_of(name, name) == "train"
    assert use_of("fold2", "train") == "fold2" and use_of("train", "fold2") == "unused" and use_of("fold2", "fold2") == "train"


def spec(splits: tuple[str, ...], train_split: str = "train", val: bool = False) -> str:
    shard = Shard("webdataset", "a.tar", ("/a.tar",), 10)
    classes = Classes(3, ("a", "b", "c"))
    return ImageSpec(
        ((shard, Index("ab" * 16, 9, 9, splits=splits), val),), classes, (8, 8), "bilinear", True, train_split, 0.1, 0
    ).identity


def test_only_trainings_with_other_names_of_splits_are_begun_anew():
    plain = spec(())
    for same in (("train",), ("test", "train", "val"), ("fold1", "train"), ("TRAINING OF 2020",)):
        assert spec(same) == plain
    assert spec(("validation",), val=True) == spec((), val=True), "shards for validation are that, whatever their samples say"
    assert len({plain, spec(("train", "validation")), spec(("dev", "train")), spec(("training", "val"))}) == 4
    assert spec(("training",), "training") == spec((), "training")


@pytest.mark.parametrize("names", [("training", "validation", "testing"), ("TRAIN", "dev", "test")])
def test_a_training_heeds_every_name_of_a_split(names, tmp_path, caplog):
    splits = [names[0]] * 4 + [names[1]] * 3 + [names[2]] * 2 + ["extra"]
    samples = [(f"s{i}", {**good(i), "json": json.dumps({"label": i % 5, "split": split}).encode()}) for i, split in enumerate(splits)]
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples))
    content = job_train.run(training((f"{tmp_path}/a.tar", tmp_path / "cache"), tmp_path / "out", epochs=1))
    assert content["images"] == {"train": 4, "val": 3, "test": 2}
    assert "images of the split extra are used for nothing" in caplog.text


# Datasets to pack


def packed(root: Path | str, out: Path, **options) -> tuple[dict, dict[str, tuple], list[str]]:
    """What pack.json says, image's bytes -> label, split and boxes, and the classes."""
    content = pack(Pack(root=str(root), out=str(out), workers=0, **options))
    samples = {}
    for shard in list_shards([f"{out}/*.tar"]):
        samples |= {sample.image: (sample.label, sample.label_name, sample.split, tuple(sample.boxes)) for sample in read(shard)}
    classes = (out / "classes.txt").read_text().splitlines() if (out / "classes.txt").exists() else []
    return content, samples, classes


ROWS = [
    ["path", "label", "split", "x0", "y0", "x1", "y1"],
    ["images/a.jpg", "emu, large", "train", "", "", "", ""],
    ["images/b b.jpg", "auk", "val", "0.1", "0.1", "0.5", "0.5"],
    ['images/c"c.jpg', "auk", "", "", "", "", ""],
]


def written(rows: list[list[str]], separator: str = ",", quoting: int = csv.QUOTE_MINIMAL, newline: str = "\n", start: str = "") -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, quoting=quoting, lineterminator=newline).writerows(rows)
    return start + buffer.getvalue()


@pytest.fixture
def birds(tmp_path):
    """Images beside which a table may be put, and what the table above says of them."""
    root = tmp_path / "birds"
    images(root, *(row[0] for row in ROWS[1:]))
    put(root / "table.csv", written(ROWS).encode())
    expected = packed(root, tmp_path / "expected")
    (root / "table.csv").unlink()
    assert expected[2] == ["auk", "emu, large"] and sorted(label for label, *_ in expected[1].values()) == [0, 0, 1]
    return root, expected[1:]


DIALECTS = {
    "quoted": written(ROWS, quoting=csv.QUOTE_ALL),
    "semicolons": written(ROWS, ";"),
    "semicolons, quoted, as a spreadsheet marks them": written(ROWS, ";", csv.QUOTE_ALL, "\r\n", "sep=;\r\n"),
    "tabs": written(ROWS, "\t"),
    "bars": written(ROWS, "|"),
    "windows": written(ROWS, newline="\r\n"),
    "old mac": written(ROWS, newline="\r"),
    "BOM": written(ROWS, quoting=csv.QUOTE_ALL, start="\ufeff"),
    "blanks": written(ROWS, newline="\n\n", start="\n"),
    "blank cells": written([[*row, ""] for row in ROWS] + [[""] * 8] * 3),
    "spaces": written(ROWS, quoting=csv.QUOTE_ALL).replace('","', '", "'),
    "capitals": written([[name.upper() for name in ROWS[0]], *ROWS[1:]]),
    "index": written([[str(n), *row] if n else ["", *row] for n, row in enumerate(ROWS)]),
    "two lines in a cell": written([[*row, "a\nb\n\nc"] for row in ROWS]),
}


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_table_is_the_same_in_every_dialect(name, coding, birds, tmp_path):
    root, expected = birds
    text = DIALECTS[name]
    put(root / "table.csv", text.removeprefix("\ufeff" if coding == "utf-16" else "").encode(coding))
    assert packed(root, tmp_path / "out")[1:] == expected


COLUMNS = {
    "other names": (["Image Path", "Class", "Set"], lambda path: path),
    "without the folder": (["filename", "category", "subset"], lambda path: path.removeprefix("images/")),
    "without the ending": (["image_id", "labels", "dataset"], lambda path: path.removeprefix("images/").removesuffix(".jpg")),
    "from windows": (["file", "class_name", "split"], lambda path: path.replace("/", "\\")),
    "from here": (["path", "label", "split"], lambda path: f"./{path}"),
}


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_is_known_by_usual_names_of_its_columns(name, ending, birds, tmp_path):
    root, expected = birds
    names, write = COLUMNS[name]
    rows = [[*names, *ROWS[0][3:]], *([write(row[0]), *row[1:]] for row in ROWS[1:])]
    put(root / f"table.{ending}", written(rows, "," if ending == "csv" else "\t").encode())
    content, *found = packed(root, tmp_path / "out")
    assert content["layout"] == "csv" and tuple(found) == expected


def test_tables_that_are_named_as_splits_are_one(birds, tmp_path):
    root, (samples, classes) = birds
    for split, rows in (("train", ROWS[1::2]), ("valid", ROWS[2:3])):
        put(root / f"{split}.csv", written([[*ROWS[0][:2], *ROWS[0][3:]], *([*row[:2], *row[3:]] for row in rows)]).encode())
    put(root / "test.csv", b"path\nimages/d.jpg\n")  # as competitions have it: without labels
    assert packed(root, tmp_path / "out")[1:] == (samples, classes)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"a.csv": "path,label\nimages/a.jpg,x\n", "b.csv": "path,label\nimages/a.jpg,y\n"},
            r"a.csv and b.csv each name images and labels",
        ),
        ({"a.csv": "image_id,class\na,x\n", "b.tsv": "file\tspecies\na.jpg\ty\n"}, r"a.csv and b.tsv each name images and labels"),
        ({"a.csv": "image_id,class_id,class_name\na,0,x\n"}, r"class_name and class_id may both be the label; call .* `label`"),
        ({"a.csv": "path,label\nimages/a.jpg,-1\n"}, r"a.csv:2: the label -1 is no number of a class"),
        ({"a.csv": "path,label\nimages/a.jpg,\n"}, r"a.csv:2: the label is empty; leave out rows"),
        ({"a.csv": "path,label\nimages/a.jpg,1.0\nimages/b b.jpg,NaN\n"}, r"a.csv:3: the label NaN is no number, as all others are"),
        ({"a.csv": 'path,label\n"images/a.jpg\n'}, r"a.csv:.: the row has 1 fields; the first line names 2"),
        ({"a.csv": b"path,label\nimages/a.jpg,caf\xe9\n"}, r"a.csv is not a text file in UTF-8 .*; save it in UTF-8"),
    ],
)
def test_a_table_that_could_mean_two_things_is_refused(tables, message, birds, tmp_path):
    root, _ = birds
    for name, text in tables.items():
        put(root / name, text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refusal, match=message):
        packed(root, tmp_path / "out")


def test_a_table_beside_class_folders_is_told_and_read_if_asked(tmp_path, caplog):
    images(tmp_path / "root", "cat/1.jpg", "dog/2.jpg")
    put(tmp_path / "root/places.csv", b"filename,category\n1.jpg,indoors\n2.jpg,outdoors\n")
    assert packed(tmp_path / "root", tmp_path / "folders")[2] == ["cat", "dog"] and "places.csv is not read" in caplog.text
    assert packed(tmp_path / "root", tmp_path / "table", layout="csv")[2] == ["indoors", "outdoors"]
    put(tmp_path / "root/places.csv", b"Image Index,Finding\n1.jpg,none\n")
    caplog.clear()
    assert packed(tmp_path / "root", tmp_path / "other")[2] == ["cat", "dog"] and "places.csv is not read" in caplog.text


def test_files_that_are_no_tables_do_not_stand_in_the_way(tmp_path):
    """Class folders are packed as ever beside files that cannot be read as tables of images, and with files in them that lie anywhere."""
    root = tmp_path / "root"
    images(root, "cat/1.jpg", "dog/2.jpg")
    put(root / "notes.csv", b"image,label,comment\ncat/1.jpg,x,well, well\n")
    put(root / "more.tsv", b"caf\xe9\tlabel\n")
    put(root / "cat/sizes.csv", b"caf\xe9,label\n")
    put(root / "dog/images.txt", b"1 2.jpg\n")
    content, _, classes = packed(root, tmp_path / "out")
    assert (content["layout"], classes, content["left_out"]) == ("folder", ["cat", "dog"], {".csv": 2, ".tsv": 1, ".txt": 1})


@pytest.mark.parametrize("form", ["{}", "{}.0", "{}.", "0{}", " {} ", "{:.6e}"])
def test_labels_that_are_numbers_are_numbers(form, tmp_path):
    root = tmp_path / "root"
    images(root, *(f"i/{n}.jpg" for n in range(12)))
    put(root / "t.csv", "".join(["path,label\n", *(f"i/{n}.jpg,{form.format(n)}\n" for n in range(12))]).encode())
    _, samples, classes = packed(root, tmp_path / "out")
    assert classes == NUMBERS
    assert all(samples[(root / f"i/{n}.jpg").read_bytes()][:2] == (n, str(n)) for n in range(12))


def test_fractions_are_names_and_told(tmp_path, caplog):
    images(tmp_path / "root", "i/1.jpg", "i/2.jpg")
    put(tmp_path / "root/t.csv", b"path,label\ni/1.jpg,2.5\ni/2.jpg,1.0\n")
    assert packed(tmp_path / "root", tmp_path / "out")[2] == ["1.0", "2.5"]
    assert "labels that are not whole, as 2.5, are names" in caplog.text


def test_numbers_among_names_are_names_and_told(tmp_path, caplog):
    images(tmp_path / "root", *(f"i/{n}.jpg" for n in range(12)))
    rows = "".join(f"i/{n}.jpg,{n if n else 'none'}\n" for n in range(12))
    put(tmp_path / "root/t.csv", f"path,label\n{rows}".encode())
    assert packed(tmp_path / "root", tmp_path / "out")[2] == sorted(["none", *NUMBERS[1:]])
    assert "in the order of texts, '10' before '2'; a classes.txt gives another" in caplog.text


@pytest.mark.parametrize("place", ["{}/1.jpg", "train/{}/1.jpg"])
def test_class_folders_that_are_numbers_are_ordered_as_numbers_or_as_a_file_says(place, tmp_path, caplog):
    names = [str(number) for number in (3, 1, 20, 11, 100)]
    images(tmp_path / "root", *(place.format(name) for name in names))
    assert packed(tmp_path / "root", tmp_path / "out")[2] == ["1", "3", "11", "20", "100"]
    assert "the classes are numbers" in caplog.text
    put(tmp_path / "root/classes.txt", [*names, "7"])
    content, samples, classes = packed(tmp_path / "root", tmp_path / "listed")
    assert (classes, content["empty_classes"]) == ([*names, "7"], ["7"])
    assert all(samples[(tmp_path / "root" / place.format(name)).read_bytes()][:2] == (label, name) for label, name in enumerate(names))
    put(tmp_path / "root/classes.txt", ["1", "3"])
    assert packed(tmp_path / "root", tmp_path / "some")[2] == ["1", "3", "11", "20", "100"] and "is not heeded" in caplog.text


ONE_ABOVE = [name for name in MINIATURES if not name.startswith(("wsol", "flat"))]


@pytest.mark.parametrize("name", ONE_ABOVE)
def test_a_root_one_folder_above_is_the_dataset_or_refused(name, tmp_path, caplog):
    layout, build = MINIATURES[name]
    expected = build(tmp_path / "outer" / "inner")
    images(tmp_path / "outer", *(["segmentations/001.x/1.png"] if layout == "cub" else []))
    inside = packed(tmp_path / "outer" / "inner", tmp_path / "inside", level=expected.level)
    if layout == "folder":
        with pytest.raises(
            Refusal, match=r"whose folders may be the classes .*--root .*/outer/inner, or have one class with --layout folder"
        ):
            packed(tmp_path / "outer", tmp_path / "above")
        assert packed(tmp_path / "outer", tmp_path / "above", layout="folder")[2] == ["inner"]
    else:
        above = packed(tmp_path / "outer", tmp_path / "above", level=expected.level)
        assert above[1:] == inside[1:] and (layout == "imagenet_val" or "/outer/inner" in caplog.text)


def test_of_several_datasets_below_a_root_one_is_named(tmp_path):
    MINIATURES["cub"][1](tmp_path / "root/birds")
    MINIATURES["cars"][1](tmp_path / "root/cars")
    with pytest.raises(Refusal, match=r"holds several datasets: .*birds \(cub\), .*cars \(cars\); name one with --root"):
        packed(tmp_path / "root", tmp_path / "out")
    assert packed(tmp_path / "root", tmp_path / "out", layout="cars")[0]["layout"] == "cars"


def test_folders_nested_as_archives_leave_them(tmp_path):
    expected = MINIATURES["cars devkit"][1](tmp_path / "cars")
    for folder in ("cars_train", "cars_test"):
        (tmp_path / "cars" / folder).rename(tmp_path / "moved")
        (tmp_path / "cars" / folder).mkdir()
        (tmp_path / "moved").rename(tmp_path / "cars" / folder / folder)
    (tmp_path / "cars/car_devkit").mkdir()
    (tmp_path / "cars/devkit").rename(tmp_path / "cars/car_devkit/devkit")
    content, _, classes = packed(tmp_path / "cars", tmp_path / "out")
    assert (content["layout"], content["images"], classes) == ("cars", 4, expected.classes)


@pytest.mark.parametrize("name", ["copies", "longer names", "years", "sets", "one split"])
def test_split_folders_are_packed_as_splits(name, tmp_path):
    names, labels = SPLIT_TREES[name]
    images(tmp_path / "root", *names)
    content, samples, classes = packed(tmp_path / "root", tmp_path / "out", skip_missing=True)
    assert content["layout"] == "splits" and classes == sorted({*labels})
    assert [samples[(tmp_path / "root" / name).read_bytes()][1] for name in names] == labels


def test_what_is_no_class_is_refused_or_told(tmp_path, caplog):
    images(tmp_path / "cars", "cars_train/cars_train/1.jpg", "cars_test/cars_test/2.jpg")
    with pytest.raises(Refusal, match="cars_test/cars_test/2.jpg does not lie in SPLIT/CLASS/"):
        packed(tmp_path / "cars", tmp_path / "out")
    images(tmp_path / "copy", "daisy/1.jpg", "rose/2.jpg", "flowers/daisy/1.jpg", "flowers/rose/2.jpg")
    with pytest.raises(Refusal, match=r"flowers holds folders of the classes again \(daisy rose ...\): remove that copy"):
        packed(tmp_path / "copy", tmp_path / "out")
    images(tmp_path / "parts", *(f"{part}/{name}/1.jpg" for part in ("photo", "sketch") for name in ("dog", "cat")))
    assert packed(tmp_path / "parts", tmp_path / "parts out")[2] == ["photo", "sketch"]
    assert "the folders in them have the same names: cat dog" in caplog.text
    images(tmp_path / "one", "images/1.jpg", "images/2.jpg")
    assert packed(tmp_path / "one", tmp_path / "one out")[2] == ["images"] and "that is their only class" in caplog.text


def test_files_in_no_sample_are_counted_by_ending(tmp_path, capsys):
    images(tmp_path / "root", "cat/1.jfif", "dog/2.jpg", "dog/3.JPE")
    for name in ("cat/4.bmp", "dog/5.BMP", "dog/6.gif", "README"):
        put(tmp_path / "root" / name, b"x")
    content, _, _ = packed(tmp_path / "root", tmp_path / "out")
    assert content["images"] == 3 and content["left_out"] == {".bmp": 2, ".gif": 1, "without ending": 1}
    with tarfile.open(tmp_path / "out/train-00000.tar") as tar:
        assert {name.rpartition(".")[2] for name in tar.getnames()} == {"jpg", "json"}
    assert "files in no sample: 2 .bmp, 1 .gif, 1 without ending" in "".join(capsys.readouterr())
