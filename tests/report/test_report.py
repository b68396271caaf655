"""The report as files: what they hold, what they escape, how large they are, and which requests are refused."""

import base64
import re

import numpy as np
import pytest

from jobs import report as job
from pipeline import tables
from pipeline.maps.quantise import stored
from pipeline.refusal import Refusal
from pipeline.report.job import Report
from pipeline.report.overview import number, shade
from pipeline.report.write import write
from tests.report.folder import CLASSES, KEY, Page, content, shown


def test_the_page_has_no_script_of_its_own_and_no_link_that_leaves_the_folder(report):
    page = Page((report / "index.html").read_text())
    assert [attributes["src"] for tag, attributes in page.tags if tag == "script"]
    assert not [attributes for tag, attributes in page.tags if tag == "script" and "src" not in attributes]
    assert not [attributes for tag, attributes in page.tags if any(name.startswith("on") or name == "style" for name in attributes)]
    for link in page.links:
        assert link.startswith(("#", "data:,")) or (report / link).is_file(), link


def test_names_of_datasets_are_texts_in_every_file(report):
    for path in [report / "index.html", *sorted((report / "data").iterdir())]:
        assert "<script>alert" not in path.read_text() or path.suffix == ".js", path.name
        assert path.suffix != ".html" or KEY not in path.read_text()
    assert KEY in " ".join(shown(report)) and content(report, "run")["classes"] == {str(i): name for i, name in enumerate(CLASSES)}


def test_a_network_named_like_a_tag_is_a_text(run, tmp_path):
    """Even the words of run.json are not trusted."""
    hostile = {**run.manifest, "job": {**run.manifest["job"], "weights": "<script>alert(3)</script>"}}
    from pipeline.report import write as writing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing.tables, "open", lambda *_: tables.Run(run.out, run.run_id, hostile))
        write(Report(out=run.out, to=str(tmp_path), images=1))
    page = Page((tmp_path / "index.html").read_text())
    assert "<script>alert(3)</script>" in page.text


def test_maps_are_the_stored_bytes(report, run):
    names, cells = shown(report), content(report, "run")["cells"]
    rows = {(row["image_id"], row["method"], row["target"]): row for row in run.table("maps").to_pylist()}
    seen = 0
    for place, name in enumerate(names):
        image = content(report, f"chunk-{place // 16}")[place % 16]
        for cell, class_id, references, _, height, width, low, high, render, levels in image["maps"]:
            row = rows[(name, *cells[cell])]
            assert (class_id, references, height, width, render) == tuple(
                row[key] for key in ("class_id", "reference_ids", "height", "width", "render")
            )
            assert (np.float32(low), np.float32(high)) == (np.float32(row["map_min"]), np.float32(row["map_max"]))
            assert list(base64.b64decode(levels)) == row["map"] and stored(row).size == height * width
            seen += 1
    assert seen == len(rows)


def test_scores_stand_with_their_place_in_the_run(report, run):
    names, cells = shown(report), content(report, "run")["cells"]
    rows = run.table("metrics").to_pylist()
    values: dict = {}
    for row in rows:
        for metric in ("energy", "complexity", "deletion"):
            values.setdefault((row["method"], row["target"], metric), []).append(row[metric])
    for row in rows:
        place = names.index(row["image_id"])
        entry = content(report, f"chunk-{place // 16}")[place % 16]["scores"][str(cells.index([row["method"], row["target"]]))]
        for metric in ("energy", "complexity", "deletion"):
            of_cell = [value for value in values[row["method"], row["target"], metric] if value is not None]
            if row[metric] is None:
                assert entry["reasons"][metric] == dict(row["reasons"])[metric]
            else:
                assert np.float32(entry["scores"][metric][0]) == np.float32(row[metric])
                assert entry["scores"][metric][1] == pytest.approx(100 * np.mean(np.array(of_cell) <= row[metric]), abs=0.51)


def test_the_columns_of_the_gallery_are_those_of_the_table(report, run):
    names, overview = shown(report), content(report, "run")
    for number_, (method, target) in enumerate(overview["cells"]):
        columns = content(report, f"metrics-{number_}")
        rows = {row["image_id"]: row for row in run.table("metrics").to_pylist() if (row["method"], row["target"]) == (method, target)}
        for metric in overview["metrics"]:
            values = np.frombuffer(base64.b64decode(columns[metric]), "<f4")
            expected = [rows[name][metric] if name in rows else None for name in names]
            np.testing.assert_array_equal(values, np.array([np.nan if value is None else value for value in expected], np.float32))


def test_pictures_show_what_the_network_sees(report):
    for place in range(len(shown(report))):
        image = content(report, f"chunk-{place // 16}")[place % 16]
        assert (
            image["picture"].startswith("data:image/jpeg;base64,") and base64.b64decode(image["picture"].split(",")[1])[:2] == b"\xff\xd8"
        )


def test_a_sample_says_that_it_is_one_and_is_the_same_again(out, tmp_path):
    written = [
        write(Report(out=str(out), to=str(tmp_path / name), images=7, pictures=False, seed=seed))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    first, again, other = (file.selection.image_ids for file in written)
    assert first == again != other and len(first) == 7
    text = (tmp_path / "a" / "index.html").read_text()
    assert "7 of 40 images shown: a sample of the run, each image equally likely, in an order drawn by seed 3" in text
    small = write(Report(out=str(out), to=str(tmp_path / "d"), images=3, pictures=False, seed=3)).selection
    assert small.image_ids == first[:3], "a larger sample holds the smaller one"


def test_classes_keys_and_queries_choose_the_images(out, run, tmp_path):
    def chosen(**fields) -> tuple[str, ...]:
        return write(Report(out=str(out), to=str(tmp_path), pictures=False, **fields)).selection.image_ids

    of_labels = run.sql("SELECT image_id FROM images WHERE label IN (1, 2)").column(0).to_pylist()
    assert sorted(chosen(classes=("=cmd()", "2"))) == sorted(of_labels)
    question = "SELECT image_id, energy FROM metrics WHERE method = 'grad_cam' AND target = 'label' ORDER BY energy DESC, image_id LIMIT 5"
    assert list(chosen(select=question)) == run.sql(question).column(0).to_pylist()
    (tmp_path / "keys.txt").write_text("1.tar/image103\nnowhere\n\n0.tar/image005\n1.tar/image103\n")
    assert chosen(keys=str(tmp_path / "keys.txt")) == ("1.tar/image103", "0.tar/image005")


def test_the_size_is_bounded_and_what_was_left_out_is_said(out, tmp_path):
    most = 0.8
    written = write(Report(out=str(out), to=str(tmp_path), max_mb=most))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size == written.size <= most * 1e6
    assert 0 < len(written.selection.image_ids) < 40 and f"that {most} MB hold (--max-mb)" in (tmp_path / "index.html").read_text()


def test_a_report_written_anew_leaves_nothing_of_the_one_before_and_all_that_is_not_its_own(out, tmp_path):
    write(Report(out=str(out), to=str(tmp_path), pictures=False))
    (tmp_path / "data" / "notes.js").write_text("mine")
    written = write(Report(out=str(out), to=str(tmp_path), images=3, pictures=False))
    assert (tmp_path / "data" / "notes.js").read_text() == "mine" and not (tmp_path / "data" / "chunk-1.js").exists()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == written.size + len("mine")


def test_without_its_pictures_a_run_still_has_maps_and_tables(out, tmp_path, capsys):
    assert job.main(["--out", str(out), "--to", str(tmp_path / "r"), "--source", str(tmp_path / "gone.tar")]) == 0
    assert "pictures cannot be read" in capsys.readouterr().err
    image = content(tmp_path / "r", "chunk-0")[0]
    assert image["maps"] and "picture" not in image and "pictures cannot be read" in (tmp_path / "r" / "index.html").read_text()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"classes": ("plain",), "select": "SELECT image_id FROM images"}, "--classes and --select both choose"),
        ({"classes": ("plane",)}, "did you mean plain"),
        ({"select": "SELECT 1 AS one"}, "must return a column image_id"),
        ({"select": "SELECT image_id FROM nowhere"}, "nowhere"),
        ({"select": "SELECT image_id FROM images WHERE label = 99"}, "--select names no image"),
        ({"keys": "/nowhere/keys.txt"}, "does not exist"),
        ({"max_mb": 0.05}, "--max-mb 0.05 holds no image"),
        ({"run": "none"}, "there is no run"),
        ({"images": 0}, "--images is 0"),
    ],
    ids=["two ways", "class", "column", "table", "empty", "file", "size", "run", "count"],
)
def test_what_cannot_be_shown_is_refused(out, tmp_path, fields, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        write(Report(out=str(out), to=str(tmp_path), **fields))


def test_the_report_goes_to_any_url(out):
    import fsspec

    written = write(Report(out=str(out), to="memory://reports/one", images=2, pictures=False))
    files = fsspec.filesystem("memory").find("/reports/one")
    assert written.url == "memory://reports/one" and "/reports/one/index.html" in files and "/reports/one/data/chunk-0.js" in files


def test_a_store_says_of_each_file_what_it_is(out, s3):
    import boto3

    write(Report(out=str(out), to=f"{s3}/one", images=2))
    client, bucket = boto3.client("s3"), s3.removeprefix("s3://")
    kinds = {
        entry["Key"].rsplit(".", 1)[1]: client.head_object(Bucket=bucket, Key=entry["Key"])["ContentType"]
        for entry in client.list_objects_v2(Bucket=bucket)["Contents"]
    }
    assert {ending: kind.split(";")[0] for ending, kind in kinds.items()} == {
        **{"html": "text/html", "css": "text/css"},
        **{"js": "text/javascript", "txt": "text/plain"},
    }


def test_the_table_has_every_number_of_the_summary(report, run):
    page = Page((report / "index.html").read_text())
    values = {float(attributes["data-value"]) for tag, attributes in page.tags if tag == "td" and "data-value" in attributes}
    assert values >= set(run.sql("SELECT mean FROM summary WHERE scope = 'all' AND mean NOTNULL").column(0).to_pylist())


def test_numbers_are_short():
    assert [number(value) for value in (None, 0.12345, -0.5, 123456.0, 0, 1e-9)] == ["–", "0.123", "−0.5", "123456", "0", "1e−09"]
    assert [shade(value) for value in (None, 1, -1, 0.1, -0.3)] == ["", "shade-p4", "shade-n4", "shade-0", "shade-n1"]


def test_a_shard_that_holds_no_shown_image_is_not_opened_and_others_are_read_to_their_last_one(out, run, tmp_path, monkeypatch):
    from pipeline.report import pictures

    seen = []
    monkeypatch.setattr(pictures.sources, "read", lambda shard, read=pictures.sources.read: watched(shard, read(shard)))

    def watched(shard, samples):
        for sample in samples:
            seen.append(shard.image_id(sample.key))
            yield sample

    write(Report(out=str(out), to=str(tmp_path), select="SELECT '1.tar/image103' AS image_id"))
    assert seen == [f"1.tar/image1{i:02}" for i in range(4)]


def test_of_a_folder_only_the_shown_files_are_read(tmp_path):
    from pipeline import storage
    from pipeline.report.pictures import thumbnails
    from tests.shards import encoded, picture

    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i)))
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "read_many", lambda urls, read=storage.read_many: asked.extend(urls) or read(urls))
        prepare = {"size": [64, 64], "interpolation": "bilinear", "crop": "squash", "crop_pct": 1.0}
        manifest = {"shards": [{"name": ""}], "job": {"source": [str(tmp_path)]}, "backbone": {"prepare": prepare}}
        found, problem = thumbnails(manifest, ["1.png", "4.png"])
    assert [url.rsplit("/", 1)[1] for url in asked] == ["1.png", "4.png"] and sorted(found) == ["1.png", "4.png"] and problem is None
