"""Rows of published tables as analyses read them, and the fingerprints of the classes."""

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.reduce.analyses.images import bucket_of, fingerprints, read_images
from pipeline.reduce.analyses.rows import Rows
from pipeline.reduce.compact import write_table
from pipeline.reduce.units import ROWS_AT_ONCE, as_table
from pipeline.tables import schema

IMAGES = [{"image_id": f"i{i:03}", "label": [0, 1, 64, None][i % 4], "boxes": [{"x0": 0, "y0": 0, "x1": 0.5, "y1": 2}]} for i in range(40)]
PREDICTIONS = [{"image_id": row["image_id"], "model": "m", "predicted": i % 3} for i, row in enumerate(IMAGES)]
MAPS = [
    {"image_id": row["image_id"], "model": "m", "target": "label", "class_id": 0, "height": 1, "width": 2 + i % 2, "render": "bilinear"}
    | {"map": [0, i, 255][-2 - i % 2 :], "map_min": 0.0, "map_max": 1.0}
    for i, row in enumerate(IMAGES)
]


@pytest.fixture
def rows(tmp_path):
    """Write rows as one published file; returns the rows of its table."""

    def written(table: str, content: list[dict], columns: pa.Schema, method: str | None = None) -> Rows:
        path = f"{table}/method={method}/{len([*tmp_path.iterdir()])}.parquet" if method else f"{table}/{len(content)}.parquet"
        url = storage.join(str(tmp_path), f"{len([*tmp_path.iterdir()])}", path)
        full = [{"method": method, **row} for row in content] if method else content
        return Rows(table, [(write_table(url, path, table, pa.Table.from_pylist(full, columns)), url)])

    return written


@pytest.fixture
def group(rows):
    """The files of one group of tasks with some of the images."""

    def of(start: int, stop: int) -> dict[str, Rows]:
        return {
            "images": rows("images", IMAGES[start:stop], schema.IMAGES),
            "predictions": rows("predictions", PREDICTIONS[start:stop], schema.predictions(0)),
            "maps": rows("maps", MAPS[start:stop], schema.MAPS, "cam"),
        }

    return of


def total(groups) -> dict:
    sums: dict = {}
    for of_group in groups:
        for bucket, of_tables in fingerprints(("images", "maps", "predictions"), of_group).items():
            for table, number in of_tables.items():
                sums[bucket, table] = (sums.get((bucket, table), 0) + number) % 2**128
    return sums


def test_the_method_comes_from_the_folder_and_an_image_alone_can_be_read(rows):
    maps = rows("maps", MAPS, schema.MAPS, "cam")
    assert maps.read("method")["method"].to_pylist() == ["cam"] * 40 and [*maps.by_partition()] == ["cam"]
    [batch] = maps.batches("image_id", "height", keep=pa.array(["i003", "i007", "other"]))
    assert batch.to_pylist() == [{"image_id": "i003", "height": 1}, {"image_id": "i007", "height": 1}]
    assert not [*maps.batches("image_id", keep=pa.array(["other"]))]


def test_of_a_table_with_methods_the_rows_of_one_are_read_whatever_columns_are(rows):
    content = [{"image_id": f"i{i}", "model": "m", "method": "ab"[i % 2], "outside": i / 10} for i in range(4)]
    background = rows("background", content, schema.ANALYSES["background"])
    chosen = Rows("background", background.files, method="b")
    assert chosen.read("outside")["outside"].to_pylist() == [0.1, 0.3]
    assert {"method", "outside"} <= {*chosen.columns} and Rows("background", []).columns == []
    assert Rows("background", []).read("outside").num_rows == 0


def test_the_images_of_a_class_come_with_all_that_the_tables_say_of_them(group):
    found = [*read_images([group(0, 20), group(20, 40)], "1", (32, 32))]
    own = [i for i, row in enumerate(IMAGES) if row["label"] == 1]
    assert [image.image_id for image in found] == [IMAGES[i]["image_id"] for i in own]
    for i, image in zip(own, found, strict=True):
        [stored] = image.maps
        assert (image.label, image.predicted, image.boxes.tolist()) == (1, i % 3, [[0, 0, 0.5, 1]])
        assert (stored.method, stored.levels.tolist()) == ("cam", [MAPS[i]["map"]])


def test_every_image_is_in_one_unit(group):
    groups = [group(0, 20), group(20, 40)]
    buckets = {bucket_of(row["label"], row["image_id"]) for row in IMAGES}
    assert sorted(image.image_id for bucket in buckets for image in read_images(groups, bucket, (32, 32))) == [
        row["image_id"] for row in IMAGES
    ]
    assert {"0", "1"} < buckets and bucket_of(64, "a") == "0" and bucket_of(None, "a") != bucket_of(None, "b")


def test_fingerprints_are_the_same_however_tasks_are_grouped(group):
    whole = total([group(0, 40)])
    assert whole == total([group(0, 7), group(7, 31), group(31, 40)]) == total([group(20, 40), group(0, 20)])
    assert whole != total([group(0, 39)])


@pytest.mark.parametrize(("table", "change"), [("maps", {"map": [0, 254]}), ("predictions", {"predicted": 7}), ("images", {"boxes": []})])
def test_a_change_of_one_image_changes_the_fingerprint_of_its_class_and_table_alone(group, rows, table, change):
    before = total([group(0, 40)])
    content, columns = {
        "maps": (MAPS, schema.MAPS),
        "predictions": (PREDICTIONS, schema.predictions(0)),
        "images": (IMAGES, schema.IMAGES),
    }[table]
    changed = rows(table, [content[0] | change, *content[1:]], columns, "cam" if table == "maps" else None)
    after = total([group(0, 40) | {table: changed}])
    assert {key for key in before if before[key] != after[key]} == {("0", table)}


def test_a_table_is_made_of_any_number_of_rows():
    columns = pa.schema([("n", pa.int64())])
    for count in (0, 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 1):
        assert as_table(({"n": i} for i in range(count)), columns)["n"].to_pylist() == [*range(count)]
