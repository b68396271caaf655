"""Every engine reads every table of a published run, from a folder and over S3, and finds the same values."""

import shutil
from importlib.util import find_spec

import pyarrow as pa
import pytest

from jobs import explain
from pipeline import tables
from pipeline.stages import rows
from pipeline.tables import schema
from tests.engines import LOCAL_ONLY, READERS, values
from tests.jobs import content, job
from tests.s3 import environment_of
from tests.shards import dataset

CHANGES = {"methods": ("grad_cam",), "metrics": ("energy", "deletion", "pxap"), "metric_args": ("deletion.steps=4",)}
SCHEMAS = {
    "images": schema.IMAGES,
    "features": schema.features(7),
    "predictions": schema.predictions(5),
    "maps": schema.MAPS,
    "attributes": schema.ATTRIBUTES,
    "metrics": schema.metrics(["energy"]),
    "partials": schema.PARTIALS,
    "summary": schema.SUMMARY,
    "curves": schema.CURVES,
    **schema.ANALYSES,
    "errors": schema.ERRORS,
}


def test_these_are_all_tables():
    assert {*SCHEMAS} == {*schema.TABLES}


@pytest.mark.parametrize("table", SCHEMAS)
def test_types_are_those_that_every_engine_reads(table):
    """Spark, Delta Lake and Athena refuse unsigned numbers and float16; lists of structs are the deepest that all can query."""

    def depth(kind: pa.DataType) -> int:
        assert not pa.types.is_unsigned_integer(kind) and not pa.types.is_float16(kind), kind
        if pa.types.is_map(kind):
            return 1 + max(depth(kind.key_type), depth(kind.item_type))
        if pa.types.is_struct(kind):
            return 1 + max(depth(field.type) for field in kind)
        return 1 + depth(kind.value_type) if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) else 0

    assert max(depth(field.type) for field in SCHEMAS[table]) <= 2


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run below a folder, committed as Delta tables."""
    home = tmp_path_factory.mktemp("engines")
    explain.run(job(dataset(home / "shards", shards=2), home / "out", delta=True, analyses=("all",), **CHANGES))
    return tables.open(str(home / "out"))


@pytest.fixture
def remote(local, s3, s3_server):
    """The same run in a bucket, and what leads to it."""
    import s3fs

    s3fs.S3FileSystem(endpoint_url=s3_server).put(local.out, f"{s3}/atlas", recursive=True)
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    options = {name.lower(): environment_of(s3_server)[name] for name in names}
    return tables.open(f"{s3}/atlas"), options | {"aws_region": "us-east-1", "aws_allow_http": "true"}


def check(engine: str, run: tables.Run, options: dict) -> None:
    for table in run.tables:
        expected = run.dataset(table).to_table()
        if expected.num_rows:  # what an engine makes of a table without rows is its own business
            assert values(READERS[engine](run, table, options)) == values(expected), table


def needed(engine: str) -> None:
    if engine == "spark" and not (find_spec("pyspark") and shutil.which("java")):
        pytest.skip("needs pyspark and Java: make engines installs the one and tells about the other")


@pytest.mark.parametrize("engine", READERS)
def test_an_engine_finds_the_same_values(engine, local):
    needed(engine)
    check(engine, local, {})


@pytest.mark.parametrize("engine", sorted(READERS.keys() - LOCAL_ONLY))
def test_an_engine_finds_the_same_values_over_s3(engine, remote):
    check(engine, *remote)


def old(kind: pa.DataType) -> pa.DataType:
    """The type that an earlier version wrote."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(old(kind.value_type), kind.list_size)
    return (
        pa.list_(old(kind.value_type)) if pa.types.is_list(kind) else {pa.int16(): pa.uint8(), pa.float32(): pa.float16()}.get(kind, kind)
    )


def test_tasks_of_an_earlier_version_are_published_in_plain_types_without_computing_anew(tmp_path, monkeypatch):
    asked = job(dataset(tmp_path / "shards", shards=2), tmp_path / "out", methods=("grad_cam",))
    explain.run(job(asked.source, tmp_path / "new", methods=("grad_cam", "layer_cam")))
    with monkeypatch.context() as earlier:
        schemas_of = rows.schemas_of

        def of_then(*arguments):
            wide = {"features": "feature", "predictions": "logits", "maps": "map"}
            schemas = schemas_of(*arguments)
            for table, name in wide.items():
                index = schemas[table].get_field_index(name)
                schemas[table] = schemas[table].set(index, schemas[table].field(name).with_type(old(schemas[table].field(name).type)))
            return schemas

        earlier.setattr(rows, "schemas_of", of_then)
        earlier.setattr(schema, "plain", lambda table: table)
        earlier.setattr(schema, "VERSIONS", {})
        assert explain.run(asked).new
    before = tables.open(asked.out)
    assert before.dataset("maps").schema.field("map").type.value_type == pa.uint8()
    assert tables.render(before.sql("SELECT * FROM maps LIMIT 1").to_pylist()[0], (8, 8)).max() == 1
    assert not explain.run(asked).new, "the same job has nothing new"
    assert explain.run(job(asked.source, asked.out, methods=("grad_cam", "layer_cam"))).counts["explained"] == 8
    after = tables.open(asked.out)
    assert after.dataset("maps").schema.field("map").type.value_type == pa.int16()
    assert {
        after.dataset(table).schema.field(name).type.value_type for table, name in (("features", "feature"), ("predictions", "logits"))
    } == {pa.float32()}
    assert content(asked.out) == content(tmp_path / "new")
