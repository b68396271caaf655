"""What a hostile dataset, weights file or neighbour might try, and what must never be written down."""

import io
import json
import logging
import re
import zlib
from pathlib import Path

import pytest

from jobs import explain
from pipeline import tables
from pipeline.refusal import public
from pipeline.sources.decode import PIXEL_LIMIT
from pipeline.sources.sample import JSON_LIMIT, NESTING_LIMIT, parse_json
from pipeline.tables import files
from tests.jobs import content, job
from tests.shards import dataset, good, tar_bytes

ROOT = Path(__file__).parents[1]
ASKED = {"methods": ("grad_cam",), "targets": ("label",)}
RUNS_CODE = re.compile(
    r"(?<!cloud)pickle\.(loads?|Unpickler)\b|joblib\.|dill\.|yaml\.(unsafe_)?load\(|allow_pickle=True|torch\.load\((?!.*weights_only=True)|"
    r"(?<![\w.])(eval|exec)\(|os\.system|shell=True|\.extractall\("
)


def test_nothing_that_is_read_can_run_code():
    """Ray's own cloudpickle carries the job's own values between its own processes, in on_ray.py alone."""
    for path in (path for folder in ("pipeline", "jobs", "cluster") for path in (ROOT / folder).rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            # a plugin is code that the user names to have it run
            assert not RUNS_CODE.search(line) or (path.name == "plugins.py" and "exec(" in line), f"{path.name}:{number}: {line.strip()}"
            assert "cloudpickle" not in line or path.name == "on_ray.py", f"{path.name}:{number}"


KEYS = ["../escape", "/etc/passwd", "a/../../b", "..\\windows", "x\ny", "~/x", "c:\\x", "<b>", "a" * 5000, "'; DROP TABLE images; --"]


def test_no_key_leaves_its_folder(tmp_path):
    place = tmp_path / "inner"
    place.mkdir()
    (place / "a.tar").write_bytes(tar_bytes([(key, good(i)) for i, key in enumerate(KEYS)] + [("fine", good(3))]))
    explain.run(job(str(place / "a.tar"), place / "out", **ASKED))
    assert {path.name for path in tmp_path.iterdir()} == {"inner"}
    assert {path.name for path in place.iterdir()} == {"a.tar", "out"}
    published = content(place / "out")
    ids = [row["image_id"] for row in published["images"]]
    assert "a.tar/fine" in ids
    assert not any(".." in Path(image).parts or image.startswith("/") or "\n" in image for image in ids)
    assert {"UnsafeKey"} <= {row["error"] for row in published["errors"]}


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_a_row_in_errors(tmp_path):
    side = int(PIXEL_LIMIT**0.5) + 1
    samples = [("bomb", {"png": bomb(side, side), "cls": b"1"}), ("wide", {"png": bomb(2**31 - 1, 1), "cls": b"1"}), ("fine", good(1))]
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples))
    explain.run(job(str(tmp_path / "a.tar"), tmp_path / "out", **ASKED))
    published = content(tmp_path / "out")
    assert {row["key"] for row in published["maps"] or published["images"] if "key" in row} <= {"fine"}
    assert {(row["image_id"], row["error"]) for row in published["errors"]} == {
        ("a.tar/bomb", "TooManyPixels"),
        ("a.tar/wide", "TooManyPixels"),
    }


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":' * (NESTING_LIMIT + 2) + b"1" + b"}" * (NESTING_LIMIT + 2),
        b'{"a": "' + b"x" * JSON_LIMIT + b'"}',
        b'{"label": ' + b"9" * 50_000 + b"}",
        b'{"label": "\\ud800"}',
    ],
    ids=["open", "deep", "just too deep", "large", "long number", "half a pair"],
)
def test_json_is_bounded_in_depth_and_size(raw):
    problems: list = []
    assert parse_json(raw, problems) == {}
    assert problems[0][0] == "BadAnnotation" and len(problems[0][1]) < 400


SECRET = "sekret-9f"


def test_credentials_of_a_url_are_written_nowhere(tmp_path, caplog, capsys):
    """In no log line, table, run.json, progress object or error, whatever goes wrong on the way."""
    caplog.set_level(logging.DEBUG)
    place = f"memory://user:{SECRET}@host"
    dataset(tmp_path / "shards", shards=2)
    for shard in (tmp_path / "shards").glob("*.tar"):
        files.write_bytes(f"{place}/shards/{shard.name}", shard.read_bytes())
    files.write_bytes(f"{place}/shards/00009.tar", b"no tar at all" * 100)
    explain.run(job(f"{place}/shards/*.tar", tmp_path / "out", **ASKED))
    refused = [
        ["--source", f"{place}/nothing/*.tar", "--out", str(tmp_path / "out")],
        ["--source", str(tmp_path / "shards"), "--out", str(tmp_path / "out"), "--weights", f"{place}/no.safetensors"],
        ["--source", str(tmp_path / "shards"), "--out", str(tmp_path / "out"), "--classes", f"{place}/no.txt"],
        ["--source", str(tmp_path / "shards"), "--out", f"https://user:{SECRET}@127.0.0.1:9/out?X-Amz-Signature={SECRET}"],
    ]
    for line in refused:
        assert explain.main([*line, "--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0"]) == 2
    captured = capsys.readouterr()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith(("pipeline", "jobs"))]
    assert SECRET not in captured.out + captured.err + "\n".join(messages)
    assert SECRET not in json.dumps(content(tmp_path / "out"), default=str)
    for path in (*tmp_path.rglob("*.json"), *tmp_path.rglob("*.jsonl")):
        assert SECRET not in path.read_text(), path
    for path in (tmp_path / "out").rglob("*.parquet"):
        assert SECRET.encode() not in path.read_bytes(), path
    assert tables.open(str(tmp_path / "out")).manifest["job"]["source"] == ["memory://***@host/shards/*.tar"]


def test_what_is_public_of_a_url():
    signed = f"https://bucket.s3.amazonaws.com/a.tar?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}"
    assert public(f"cannot read s3://me:{SECRET}@host/x and {signed} today") == (
        "cannot read s3://***@host/x and https://bucket.s3.amazonaws.com/a.tar?*** today"
    )


def test_a_receipt_is_believed_only_within_its_place(tmp_path):
    """Receipts lie where others may write, too: what one names outside its place is not read."""
    from pipeline.tables.receipts import Receipt, load

    (tmp_path / "secret.parquet").write_bytes(b"x" * 10)
    evil = Receipt("t", "tasks/ab/t/0", {}, {"maps": {"path": "../secret.parquet", "bytes": 10, "sha256": "0"}}, {})
    files.write_bytes(str(tmp_path / "out/tasks/ab/t/0/receipt.json"), evil.to_json().encode())
    assert load(str(tmp_path / "out")) == []


def test_an_image_is_opened_by_three_decoders_alone():
    from PIL import Image

    from pipeline.sources.decode import Undecodable, decode

    for form in ("BMP", "TIFF", "GIF", "PPM"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, form)
        with pytest.raises(Undecodable, match="UnknownFormat"):
            decode(buffer.getvalue(), (8, 8))
