"""The messages that stages hand to each other come back from their rows as they were."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.plan.task import Task
from pipeline.sources import Index, Shard
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.stages.land import Land
from pipeline.stages.messages import ExplainMessage, ReadMessage, TaskResult, explain_failure, read_failure
from pipeline.tables import receipts, schema

SHARD = Shard("webdataset", "val/00000.tar", ("/somewhere/val/00000.tar",), 1000)
TASK = Task(SHARD, Index("ab" * 16, 100, True, ()), 8, 16, (0, 3), (({"path": "tasks/maps.parquet", "bytes": 3, "sha256": "00"}, 1),))
FAILURE = TASK.failure(ValueError("no such thing"), "read")


def images() -> DecodedImages:
    rng = np.random.default_rng(0)
    pixels, (mask, parts) = rng.integers(0, 256, (3, 3, 4, 6), dtype=np.uint8), rng.integers(0, 3, (2, 4, 6), dtype=np.uint8)
    rows = [
        ImageRow.annotated(image_id="val/a", key="a", label=3, label_name="wren", width=9, height=7, boxes=[(0.1, 0.2, 0.3, 0.4)]),
        ImageRow.annotated(image_id="val/b", key="b", shard="val", mask=mask, points={"eye": (0.5, 0.25)}, split="test"),
        ImageRow.annotated(image_id="val/c", key="c", mask=mask, parts=parts, points={"eye": (0, 0)}, part_names=("head", "tail")),
    ]
    return DecodedImages(pixels, rows, ["d", "e", "f"], [{"image_id": "val/x", "error": "TruncatedImage"}])


def plain(row: ImageRow) -> dict:
    """A row as JSON would have it: its sequences are lists."""
    fields = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(row).items()}
    fields["points"] = {name: list(point) for name, point in row.points.items()}
    return {**fields, "boxes": list(row.boxes), "part_names": list(row.part_names)}


@pytest.mark.parametrize("stored_maps", [None, schema.MAPS.empty_table()])
def test_a_read_message_comes_back_from_its_row(stored_maps):
    message = ReadMessage(TASK, images(), stored_maps, 123, 0.5, 2)
    same = ReadMessage.from_row(message.to_row())
    assert (same.task, same.stored_maps, same.bytes_read, same.seconds, same.retries, same.failure) == (
        TASK,
        stored_maps,
        123,
        0.5,
        2,
        None,
    )
    assert np.array_equal(same.images.pixels, message.images.pixels)
    assert [plain(row) for row in same.images.rows] == [plain(row) for row in message.images.rows]
    assert (same.images.digests, same.images.errors) == (message.images.digests, message.images.errors)


def test_an_explain_message_comes_back_from_its_row_and_lands(tmp_path):
    rows = pa.table({"image_id": ["a", "b"]})
    results = [
        TaskResult("11" * 16, "images", rows, schema.errors([])),
        TaskResult("22" * 16, "errors", rows.slice(0, 0), schema.errors([])),
    ]
    message = ExplainMessage(TASK, results, {"start": 8, "stop": 16, "passes": {}})
    same = ExplainMessage.from_row(message.to_row())
    assert (same.task, same.results, same.facts, same.failure) == (TASK, results, message.facts, None)
    receipt = receipts.Receipt.from_json(Land(str(tmp_path))(message.to_row())["receipt"])
    assert (receipt.task, receipt.facts, list(receipt.cells)) == (TASK.id, message.facts, ["11" * 16, "22" * 16])


def test_a_failure_has_the_columns_of_a_success_and_goes_on_to_the_end(tmp_path):
    """Rows of one dataset have one schema; and a task that failed is told as such, whichever stage it failed in."""
    row = {"task": TASK.to_json()}
    read, explained = read_failure(row, FAILURE), explain_failure(row, FAILURE)
    assert {name: type(value) for name, value in read.items()} == {
        name: type(v) for name, v in ReadMessage(TASK, images()).to_row().items()
    }
    assert {name: type(v) for name, v in explained.items()} == {name: type(v) for name, v in ExplainMessage(TASK).to_row().items()}
    assert (ReadMessage.from_row(read).failure, ExplainMessage.from_row(explained).failure) == (FAILURE, FAILURE)
    assert receipts.failure(Land(str(tmp_path))(explained)["receipt"]) == FAILURE
    assert not list(tmp_path.iterdir())


def test_pixels_go_to_the_nearest_point_only_where_there_is_no_index_image():
    alone, pointed, coded = images().rows
    assert (alone.has_mask, pointed.has_mask) == (False, True)
    assert alone.silhouette is None and coded.silhouette is None
    assert np.array_equal(pointed.silhouette, pointed.mask > 0)
