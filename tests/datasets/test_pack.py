"""Datasets in their official layouts, packed, say in every sample what their tables say."""

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import explain
from jobs import pack as job
from pipeline import sources, tables
from pipeline.classes import pairs
from pipeline.datasets.layouts import LAYOUTS
from pipeline.datasets.packing import Pack, pack
from pipeline.datasets.packing.shard import AT_ONCE
from pipeline.refusal import Refusal
from tests.jobs import job as explain_job
from tests.layouts import HEIGHT, MINIATURES, WIDTH, half, photo, pixels, put

TOLD = ("label", "split", "boxes", "parts", "part_names", "attributes")


def packed(root, out, **options) -> dict:
    return pack(Pack(root=str(root), out=str(out), workers=0, **options))


def read(out) -> dict[str, sources.Sample]:
    """Every sample of the shards, as the main job reads them, by key."""
    found = {}
    for shard in sources.list_shards([f"{out}/*.tar"]):
        index = sources.index(shard)
        assert not index.problems
        for sample in sources.read(shard, index=index):
            assert not sample.problems
            assert sample.key not in found
            found[sample.key] = sample
    return found


def by_image(root: Path, out: Path) -> dict[str, sources.Sample]:
    """Samples by the path of the file with the same bytes."""
    paths = {file.read_bytes(): str(file.relative_to(root)) for file in root.rglob("*.[jJp]*") if "__MACOSX" not in file.parts}
    return {paths[sample.image]: sample for sample in read(out).values()}


def content(out: Path) -> dict[str, bytes]:
    """Everything that does not depend on when the dataset's files were written."""
    return {path.name: path.read_bytes() for path in Path(out).iterdir() if path.is_file()}


@pytest.fixture(params=MINIATURES)
def mini(request, tmp_path):
    layout, build = MINIATURES[request.param]
    root = tmp_path / "root"
    return layout, root, build(root)


def test_every_layout_has_a_miniature():
    assert {layout for layout, _ in MINIATURES.values()} == set(LAYOUTS), "add a miniature to MINIATURES in tests/layouts.py"


def test_samples_say_what_the_tables_say(mini, tmp_path):
    layout, root, expected = mini
    told = packed(root, tmp_path / "out", level=expected.level)
    assert told["layout"] == layout
    found = by_image(root, tmp_path / "out")
    assert set(found) == set(expected.samples)
    for path, wanted in expected.samples.items():
        sample = found[path]
        said = {"label": sample.label, "boxes": [list(box) for box in sample.boxes], **sample.annotations}
        said |= {
            "split": sample.split,
            "parts": {part: list(xy) for part, xy in sample.points.items()},
            "part_names": list(sample.part_names),
        }
        said = {name: said[name] for name in TOLD if said.get(name) or name in wanted}
        assert said == {name: value for name, value in wanted.items() if name != "boxes" or value}, path
        assert sample.label_name == (None if wanted["label"] is None else expected.classes[wanted["label"]])
        assert (sample.annotations["width"], sample.annotations["height"]) == (WIDTH, HEIGHT)
        for ending, masks in (("mask.png", expected.masks), ("parts.png", expected.parts)):
            assert (ending in sample.members) == (path in masks), (path, ending)
            if path in masks:
                assert np.array_equal(pixels(sample.members[ending]), masks[path]), (path, ending)


def test_what_lies_beside_the_shards_is_true(mini, tmp_path):
    _, root, expected = mini
    out = tmp_path / "out"
    told = packed(root, out, level=expected.level, images_per_shard=2)
    assert json.loads((out / "pack.json").read_text()) == told
    classes = (out / "classes.txt").read_text().splitlines() if expected.classes else []
    assert classes == expected.classes and told["classes"] == len(classes)
    assert (json.loads((out / "attributes.json").read_text()) if (out / "attributes.json").exists() else None) == expected.attributes
    assert sorted(shard["name"] for shard in told["shards"]) == sorted(path.name for path in out.glob("*.tar"))
    for shard in told["shards"]:
        raw = (out / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
        samples = [s for one in sources.list_shards([str(out / shard["name"])]) for s in sources.read(one)]
        assert len(samples) == shard["images"] <= 2
        assert {sample.split for sample in samples} == {shard["split"]} == {shard["name"].split("-")[0]}
    for split, sums in told["splits"].items():
        assert sums["images"] == sum(wanted["split"] == split for wanted in expected.samples.values())
        assert sums["shards"] == -(-sums["images"] // 2)
    assert told["images"] == len(expected.samples) and told["problems"] == []


@pytest.mark.parametrize("name", MINIATURES)
def test_the_same_dataset_elsewhere_gives_the_same_bytes(name, tmp_path):
    layout, build = MINIATURES[name]
    for place in ("a", "b"):
        expected = build(tmp_path / f"root {place}")
        packed(tmp_path / f"root {place}", tmp_path / place, layout=layout if place == "b" else "auto", level=expected.level)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    for path in (tmp_path / "a").glob("*.tar"):
        with tarfile.open(path) as tar:
            assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in tar} == {(0, 0, 0, "", "")}


@pytest.fixture
def cub(tmp_path):
    MINIATURES["cub"][1](tmp_path / "cub")
    return tmp_path / "cub"


def test_a_second_run_writes_nothing_and_a_changed_image_its_own_shard(cub, tmp_path):
    out = tmp_path / "out"
    packed(cub, out, images_per_shard=1)
    before = {path.name: path.stat().st_ino for path in out.glob("*.tar")}
    first = content(out)
    packed(cub, out, images_per_shard=1)
    assert {path.name: path.stat().st_ino for path in out.glob("*.tar")} == before
    photo(cub / "images" / "001.Black_footed_Albatross" / "A_0009_34.jpg", 77)
    packed(cub, out, images_per_shard=1)
    assert {path.name for path in out.glob("*.tar") if path.stat().st_ino != before[path.name]} == {"train-00000.tar"}
    assert {name for name, raw in content(out).items() if raw != first[name]} == {"train-00000.tar", "pack.json"}


def test_an_interrupted_run_goes_on_where_it_was(cub, tmp_path):
    packed(cub, tmp_path / "whole", images_per_shard=1)
    out = tmp_path / "out"

    def cut(function, items):
        yield function(items[0])
        yield function(items[1])
        raise KeyboardInterrupt

    options = Pack(root=str(cub), out=str(out), images_per_shard=1, workers=0)
    with pytest.raises(KeyboardInterrupt):
        pack(options, cut)
    assert len(list(out.glob("*.tar"))) == 2 and not (out / "pack.json").exists()
    before = {path: path.stat().st_ino for path in out.glob("*.tar")}
    pack(options)
    assert content(out) == content(tmp_path / "whole")
    assert {path: path.stat().st_ino for path in before} == before


def test_fewer_shards_leave_no_old_ones_and_other_splits_stay(cub, tmp_path):
    out = tmp_path / "out"
    packed(cub, out, images_per_shard=1)
    told = packed(cub, out, images_per_shard=2, split=("test",))
    assert sorted(path.name for path in out.glob("*.tar")) == ["test-00000.tar", "train-00000.tar", "train-00001.tar"]
    assert told["splits"] == {"train": {"images": 2, "shards": 2}, "test": {"images": 2, "shards": 1}}
    assert packed(cub, out, images_per_shard=2) == packed(cub, tmp_path / "fresh", images_per_shard=2)


def test_another_dataset_in_the_same_place_is_refused(cub, tmp_path):
    packed(cub, tmp_path / "out")
    MINIATURES["folder"][1](tmp_path / "folder")
    with pytest.raises(Refusal, match="holds another dataset .layout cub and not folder"):
        packed(tmp_path / "folder", tmp_path / "out")


def test_resize_keeps_fractions_and_shrinks_masks_too(cub, tmp_path):
    packed(cub, tmp_path / "plain")
    packed(cub, tmp_path / "small", resize=10)
    packed(cub, tmp_path / "large", resize=100)
    for key, plain in read(tmp_path / "plain").items():
        for out, size in (("small", (20, 10)), ("large", (WIDTH, HEIGHT))):
            sample = read(tmp_path / out)[key]
            assert (sample.boxes, sample.points, sample.annotations) == (plain.boxes, plain.points, plain.annotations)
            with Image.open(io.BytesIO(sample.image)) as image:
                assert (image.format, image.size) == ("JPEG", size)
            assert all(pixels(mask).shape == size[::-1] for mask in sample.members.values())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_turn_with_the_image(cub, tmp_path, orientation):
    """The bright quarter of an image, wherever EXIF turns it, is where its box, its point and its mask are."""
    from PIL import ImageOps

    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[:10, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    name = "001.Black_footed_Albatross/A_0046_18"
    Image.fromarray(stored).convert("RGB").save(cub / "images" / f"{name}.jpg", quality=100, subsampling=0, exif=exif)
    put(cub / "segmentations" / f"{name}.png", stored)
    put(cub / "bounding_boxes.txt", ["1 0.0 0.0 10.0 10.0", *(cub / "bounding_boxes.txt").read_text().splitlines()[1:]])
    put(cub / "parts" / "part_locs.txt", ["1 1 5.0 5.0 1"])
    packed(cub, tmp_path / "out")
    sample = read(tmp_path / "out")["001_Black_footed_Albatross__A_0046_18"]
    with Image.open(io.BytesIO(sample.image)) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("L")) > 127
    rows, columns = np.nonzero(shown)
    height, width = shown.shape
    tight = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
    assert list(sample.boxes[0]) == pytest.approx(tight)
    x, y = sample.points["back"]
    assert (x, y) == pytest.approx(((tight[0] + tight[2]) / 2, (tight[1] + tight[3]) / 2))
    assert np.array_equal(pixels(sample.members["mask.png"]) == 255, shown)
    assert (sample.annotations["width"], sample.annotations["height"]) == (width, height)


def test_keys_are_unique_where_paths_differ_in_what_is_made_safe(tmp_path):
    names = ["x/a.b.jpg", "x/a_b.jpg", "x__a_b.jpg", "x/a.b.png", "x/ä é.jpg", "x/%41.jpg"]
    put(tmp_path / "root" / "t.csv", ["path,label", *(f"{name},c" for name in names)])
    for seed, name in enumerate(names):
        photo(tmp_path / "root" / name, seed)
    packed(tmp_path / "root", tmp_path / "out")
    keys = list(read(tmp_path / "out"))
    assert len(keys) == len(names) and not any("/" in key or "." in key for key in keys)


def lines(path: Path, change) -> None:
    put(path, change(path.read_text().splitlines()))


BROKEN = {
    "fewer labels": (
        "cub",
        lambda r: lines(r / "image_class_labels.txt", lambda t: t[:-1]),
        r"image_class_labels.txt has 3 lines and images.txt 4",
    ),
    "more boxes": ("cub", lambda r: lines(r / "bounding_boxes.txt", lambda t: [*t, "9 1 1 2 2"]), r"there is no image 9 in images.txt"),
    "stray point": (
        "cub",
        lambda r: lines(r / "parts/part_locs.txt", lambda t: [*t, "9 1 1 1 1"]),
        r"part_locs.txt:13: there is no image '9'",
    ),
    "label out of range": (
        "cub",
        lambda r: lines(r / "image_class_labels.txt", lambda t: [*t[:3], "4 7"]),
        r"labels.txt:4: 7 is outside 1 ... 2",
    ),
    "short line": ("cub", lambda r: lines(r / "images.txt", lambda t: ["1", *t[1:]]), r"images.txt:1: '1' has 1 fields; 2 are expected"),
    "no number": (
        "cub",
        lambda r: lines(r / "bounding_boxes.txt", lambda t: ["1 a b c d", *t[1:]]),
        r"bounding_boxes.txt:1: .* not numbers",
    ),
    "nan": ("cub", lambda r: lines(r / "bounding_boxes.txt", lambda t: ["1 nan 0 1 1", *t[1:]]), r"bounding_boxes.txt:1: .* not finite"),
    "same image twice": (
        "cub",
        lambda r: lines(r / "images.txt", lambda t: [t[1], *t[1:]]),
        r"images.txt:2: image '2' comes a second time",
    ),
    "not text": ("cub", lambda r: put(r / "images.txt", b"1 \xff\xfe.jpg\n"), r"images.txt is not a text file"),
    "attributes": (
        "cub",
        lambda r: lines(r / "attributes/class_attribute_labels_continuous.txt", lambda t: t[:1]),
        r"continuous.txt has 1 lines and classes.txt 2",
    ),
    "missing image": (
        "cub",
        lambda r: (r / "images/002.Laysan_Albatross/B_0003_56.jpg").unlink(),
        r"1 problem: images/002.Laysan_Albatross/B_0003_56.jpg \(images.txt:4\) is missing; --skip-missing",
    ),
    "no training images": (
        "cub",
        lambda r: put(r / "train_test_split.txt", ["1 0", "2 1", "3 0", "4 0"]),
        r"class 002.Laysan_Albatross has images and none for training",
    ),
    "damaged image": ("cub", lambda r: put(r / "images/002.Laysan_Albatross/B_0003_56.jpg", b"GIF89"), r"B_0003_56.jpg .* cannot be read"),
    "damaged mask": (
        "cub",
        lambda r: put(r / "segmentations/001.Black_footed_Albatross/A_0046_18.png", b"\x89PNG"),
        r"A_0046_18.png cannot be read",
    ),
    "cut mat": (
        "cars",
        lambda r: put(r / "cars_annos.mat", (r / "cars_annos.mat").read_bytes()[:-500]),
        r"cars_annos.mat is not a whole MATLAB file",
    ),
    "mat of nothing": ("cars", lambda r: put(r / "cars_annos.mat", b"MATLAB"), r"cars_annos.mat is not a whole MATLAB file"),
    "unknown variant": (
        "aircraft variant",
        lambda r: lines(r / "data/images_variant_val.txt", lambda t: ["0698580 Concorde", *t[1:]]),
        r"images_variant_val.txt:1: 'Concorde' is not in variants.txt",
    ),
    "box of no aircraft": (
        "aircraft variant",
        lambda r: lines(r / "data/images_box.txt", lambda t: [*t, "9999999 1 1 2 2"]),
        r"images_box.txt:9: there is no image '9999999'",
    ),
    "bird in the wrong class": (
        "birds525",
        lambda r: lines(r / "birds.csv", lambda t: [*t, "0,train/ABBOTTS BOOBY/1.jpg,ABBOTTS BOOBY,train,x"]),
        r"birds.csv:8: class 0 is 'ABBOTTS BOOBY' here",
    ),
    "row of other length": (
        "birds525",
        lambda r: lines(r / "birds.csv", lambda t: [*t, "0,x"]),
        r"birds.csv:8: the row has 2 fields; the first",
    ),
    "unknown trait": (
        "fishvista species",
        lambda r: put(r / "segmentation_masks/images/a.png", half(9)),
        r"a.png holds the trait 9; .* names 2",
    ),
    "bomb": (
        "imagenet caffe",
        lambda r: put(
            r / "bbox_val/ILSVRC2012_val_00000001.xml", ['<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>']
        ),
        r"val_00000001.xml declares a document type or entities",
    ),
    "not xml": (
        "imagenet caffe",
        lambda r: put(r / "bbox_val/ILSVRC2012_val_00000001.xml", ["<annotation>"]),
        r"val_00000001.xml is not XML",
    ),
    "box of no image": (
        "imagenet caffe",
        lambda r: put(r / "bbox_val/ILSVRC2012_val_00000009.xml", ["<annotation/>"]),
        r"val_00000009.xml: there is no image",
    ),
    "fewer val labels": (
        "imagenet synsets",
        lambda r: lines(r / "imagenet_2012_validation_synset_labels.txt", lambda t: t[:2]),
        r"validation_synset_labels.txt labels 2 images and there are 3",
    ),
    "ids without their order": (
        "imagenet devkit",
        lambda r: ((r / "ILSVRC2012_devkit_t12/data/meta.mat").unlink(), put(r / "synsets.txt", ["n01440764"])),
        r"numbers classes in the devkit's own order",
    ),
    "mask of no image": (
        "wsol masks",
        lambda r: lines(r / "metadata/OpenImages/val/localization.txt", lambda t: [*t, "val/x.jpg,m.png,"]),
        r"val/localization.txt:4: there is no image 'val/x.jpg'",
    ),
    "missing mask": (
        "wsol masks",
        lambda r: (r / "dataset/OpenImages/val/0bt9lr/44aa_m1.png").unlink(),
        r"dataset/OpenImages/val/0bt9lr/44aa_m1.png \(metadata/OpenImages/val/image_ids.txt:2\) is missing",
    ),
    "loose image": ("splits", lambda r: photo(r / "train" / "loose.jpg", 1), r"train/loose.jpg does not lie in SPLIT/CLASS/"),
    "no images": (
        "flat folder",
        lambda r: [path.rename(path.with_suffix(".gif")) for path in r.iterdir()],
        r"is in no layout that is known",
    ),
    "pixels in csv": (
        "csv",
        lambda r: lines(r / "labels.csv", lambda t: [*t, "x.jpg,ant,train,10,10,50,50"]),
        r"labels.csv:6: .* in fractions",
    ),
    "unknown split": ("csv", lambda r: lines(r / "labels.csv", lambda t: [*t, "x.jpg,ant,fold1,,,,"]), r"labels.csv:6: the split 'fold1'"),
    "two labels": (
        "csv",
        lambda r: lines(r / "labels.csv", lambda t: [*t, "a.jpg,ant,train,,,,"]),
        r"labels.csv:6: 'a.jpg' has another label",
    ),
    "nothing there": ("flat folder", lambda r: [path.unlink() for path in r.iterdir()], r"there is no such folder, or nothing in it"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bad_input_is_refused_in_one_line_and_nothing_is_half_written(what, tmp_path, capsys):
    name, damage, message = BROKEN[what]
    root, out = tmp_path / "root", tmp_path / "out"
    expected = MINIATURES[name][1](root)
    damage(root)
    arguments = ["--root", str(root), "--out", str(out), "--workers", "0"]
    assert job.main(arguments + (["--level", expected.level] if expected.level else [])) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ") and re.search(message, told), told
    assert not (out / "pack.json").exists()
    assert not [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".train")]
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as tar:
            assert tar.getmembers()


def test_skip_missing_goes_on_and_says_what_is_left_out(cub, tmp_path):
    (cub / "images/002.Laysan_Albatross/B_0003_56.jpg").unlink()
    put(cub / "images/001.Black_footed_Albatross/A_0046_18.jpg", b"GIF89")
    told = packed(cub, tmp_path / "out", skip_missing=True)
    assert told["images"] == 2 and told["splits"] == {"train": {"images": 2, "shards": 1}}
    with pytest.raises(Refusal, match="1 problem: .*B_0003_56.jpg .* is missing"):
        packed(cub, tmp_path / "out")
    assert [problem.split(" ")[0] for problem in told["problems"]] == [
        "images/002.Laysan_Albatross/B_0003_56.jpg",
        "images/001.Black_footed_Albatross/A_0046_18.jpg",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "cbu"], "unknown layout 'cbu'; did you mean cub"),
        (["--level", "family"], "--level family: the layout cub has one kind"),
        (["--split", "val"], "--split val: .* has no such split; it has train test"),
        (["--layout", "cars"], "has no cars_meta.mat or devkit/cars_meta.mat, which the layout needs"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(cub, tmp_path, capsys, arguments, message):
    assert job.main(["--root", str(cub), "--out", str(tmp_path / "out"), "--workers", "0", *arguments]) == 2
    assert re.search(f"^error: .*{message}", capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", range(1, 100, 7))
def test_a_mat_file_cut_anywhere_is_refused(tmp_path, cut):
    path = tmp_path / "root" / "cars_annos.mat"
    MINIATURES["cars"][1](tmp_path / "root")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * cut // 100])
    with pytest.raises(Refusal, match="cars_annos.mat is not a whole MATLAB file"):
        packed(tmp_path / "root", tmp_path / "out")


def test_numbers_of_a_job_are_checked(tmp_path):
    for wrong in ({"images_per_shard": 0}, {"resize": 0}, {"workers": -1}):
        with pytest.raises(Refusal, match="must be"):
            Pack(root="a", out="b", **wrong)


def test_inside_a_submitted_job_paths_must_be_seen_from_everywhere(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert Pack(root="/data/cub", out="s3://b/cub")
    for root, out, flag in (("cub", "/out", "--root"), ("/cub", "out", "--out")):
        with pytest.raises(Refusal, match=f"{flag} '.*' is relative to a working directory"):
            Pack(root=root, out=out)


def test_of_several_datasets_one_is_named(tmp_path):
    """A checkout of wsolevaluation with two of its datasets, one of them ImageNet's validation images."""
    MINIATURES["wsol masks"][1](tmp_path / "root")
    folder = tmp_path / "root" / "metadata" / "ILSVRC" / "test"
    names = [f"val/ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2)]
    for seed, name in enumerate(names):
        photo(tmp_path / "root" / "dataset" / "ILSVRC" / name, seed)
    put(folder / "image_ids.txt", names)
    put(folder / "class_labels.txt", [f"{names[0]},1", f"{names[1]},0"])
    with pytest.raises(Refusal, match="holds the metadata of ILSVRC OpenImages; say which with --level"):
        packed(tmp_path / "root", tmp_path / "out")
    assert packed(tmp_path / "root", tmp_path / "a", level="OpenImages")["images"] == 6
    assert packed(tmp_path / "root", tmp_path / "b", level="ILSVRC")["splits"] == {"test": {"images": 2, "shards": 1}}
    assert (tmp_path / "b" / "classes.txt").read_text() == "0\n1\n"


@pytest.mark.parametrize("name", ["two\nlines", "no utf-8 \udcff"])
def test_class_names_that_cannot_be_written_are_refused(tmp_path, name):
    photo(tmp_path / "root" / name / "a.jpg", 0)
    with pytest.raises(Refusal, match="the class name 'two.*cannot be printed|the class name 'no utf-8.*cannot be printed"):
        packed(tmp_path / "root", tmp_path / "out")


def test_two_layouts_in_one_folder_are_told_apart_by_name(cub, tmp_path):
    MINIATURES["cars"][1](cub)
    with pytest.raises(Refusal, match="looks like cars and cub; say which with --layout"):
        packed(cub, tmp_path / "out")
    assert packed(cub, tmp_path / "out", layout="stanford_cars")["layout"] == "cars"


def test_the_same_shards_from_and_to_a_bucket(cub, tmp_path, s3):
    from pipeline.storage import filesystem, join, read_bytes

    fs, _ = filesystem(s3)
    fs.put(str(cub), f"{s3}/data/cub", recursive=True)
    packed(cub, tmp_path / "out", images_per_shard=2)
    local = content(tmp_path / "out")
    for _ in range(2):
        packed(f"{s3}/data/cub", join(s3, "out"), images_per_shard=2)
        found = {path.rpartition("/")[2]: read_bytes(f"s3://{path}") for path in fs.find(join(s3, "out")) if "/.pack/" not in path}
        assert found == local
    assert len(read(join(s3, "out"))) == 4


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_write_the_same_bytes(cluster, cub, tmp_path):
    packed(cub, tmp_path / "inline", images_per_shard=1)
    job.run(Pack(root=str(cub), out=str(tmp_path / "ray"), images_per_shard=1, workers=2))
    assert content(tmp_path / "inline") == content(tmp_path / "ray")


def test_memory_does_not_grow_with_the_images_of_a_shard(tmp_path):
    import tracemalloc

    size = 200_000
    rng = np.random.default_rng(0)
    photo(tmp_path / "photo.jpg", 0)
    whole = (tmp_path / "photo.jpg").read_bytes()

    def peak(count: int) -> int:
        root, out = tmp_path / f"root{count}", tmp_path / f"out{count}"
        for i in range(count):
            put(root / "c" / f"{i:03}.jpg", whole + rng.bytes(size))  # what follows a JPEG's end is nobody's
        tracemalloc.start()
        told = packed(root, out, images_per_shard=count)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert told["shards"][0]["bytes"] > size * count
        return found

    peak(2)  # what is imported on the way
    few, many = peak(2 * AT_ONCE), peak(8 * AT_ONCE)
    assert few < 2 * AT_ONCE * size
    assert many - few < 5 * size  # of 6 * AT_ONCE more that passed through; the records' own rows are small


def test_the_main_job_explains_what_was_packed(cub, tmp_path):
    packed(cub, tmp_path / "out", images_per_shard=1)
    asked = {
        "backbone_args": ("num_classes=2",),
        "classes": str(tmp_path / "out" / "classes.txt"),
        "methods": ("grad_cam",),
        "targets": ("label",),
    }
    outcome = explain.run(explain_job(f"{tmp_path}/out/*.tar", tmp_path / "atlas", metrics=("energy",), **asked))
    assert outcome.complete and outcome.counts["explained"] == 4
    rows = tables.open(str(tmp_path / "atlas")).sql("SELECT key, label, label_name, boxes FROM images ORDER BY key").to_pylist()
    assert [(row["label"], row["label_name"]) for row in rows] == [(0, "001.Black_footed_Albatross")] * 2 + [
        (1, "002.Laysan_Albatross")
    ] * 2
    assert all(len(row["boxes"]) == 1 for row in rows)


def test_the_real_cub_agrees_with_its_own_files(realdata, tmp_path):
    """Fifty species, read with nothing but split() and Pillow."""
    root, out = realdata / "CUB_200_2011", tmp_path / "out"
    told = packed(root, out, images_per_shard=300)

    def table(path: str) -> list[list[str]]:
        return [line.split() for line in (root / path).read_text().splitlines()]

    names, labels, training = (dict(table(path)) for path in ("images.txt", "image_class_labels.txt", "train_test_split.txt"))
    boxes = {image: list(map(float, box)) for image, *box in table("bounding_boxes.txt")}
    parts = {number: " ".join(name) for number, *name in table("parts/parts.txt")}
    points = {image: {} for image in names}
    for image, part, x, y, visible in table("parts/part_locs.txt"):
        if visible == "1":
            points[image][parts[part]] = (float(x), float(y))
    found = read(out)
    assert (told["images"], told["classes"], len(found)) == (1000, 200, 1000)
    assert told["splits"] == {"train": {"images": 600, "shards": 2}, "test": {"images": 400, "shards": 2}}
    assert len(told["empty_classes"]) == 150
    files = {sample.image: sample for sample in found.values()}
    for image, name in names.items():
        path = root / "images" / name
        sample = files[path.read_bytes()]
        with Image.open(path) as opened:
            width, height = opened.size
        assert sample.label == int(labels[image]) - 1 and sample.label_name == name.split("/")[0]
        assert sample.split == ("train" if training[image] == "1" else "test")
        x, y, w, h = boxes[image]
        edges = np.clip([x / width, y / height, (x + w) / width, (y + h) / height], 0, 1)
        assert np.allclose(sample.boxes, [edges], atol=1e-6)
        wanted = {part: (x / width, y / height) for part, (x, y) in points[image].items()}
        assert sample.points.keys() == wanted.keys()
        assert all(np.allclose(sample.points[part], np.clip(wanted[part], 0, 1), atol=1e-6) for part in wanted)
    attributes = json.loads((out / "attributes.json").read_text())
    assert attributes["attributes"] == [name for _, name in table("attributes/attributes.txt")]
    official = np.loadtxt(root / "attributes" / "class_attribute_labels_continuous.txt")
    assert np.allclose(np.array(attributes["values"]) * 100, official)
    assert Counter(len(pair.parts) for pair in pairs.read(str(out / "pairs.json"))) == {1: 31, 2: 64, 3: 96}  # CALM's table 1
