"""Engines that read a table of a published run: `READERS[engine](run, table, options)` returns all rows as a pyarrow table.

Two of them read the Delta table that the run is committed to, the others the files of the run. `options` lead to an S3 endpoint; they are
empty for a local folder. Each engine reads as its own users do, and knows nothing of ours.
"""

import math
from collections.abc import Callable, Mapping

import pyarrow as pa

from pipeline.tables import Run, schema
from pipeline.tables.lake.location import table_url

Options = Mapping[str, str]


def folder(run: Run, table: str) -> str:
    """The URL of a table's folder."""
    return run.location.folder(table)


def duckdb(run: Run, table: str, options: Options) -> pa.Table:
    rows = run.sql(f"SELECT * FROM {table}")
    return rows.select(run.dataset(table).schema.names)  # the views have names of classes besides


def polars(run: Run, table: str, options: Options) -> pa.Table:
    import polars as library

    frame = library.scan_parquet(run.urls(table), hive_partitioning=table in schema.PARTITIONED, storage_options=dict(options) or None)
    return frame.collect().to_arrow()


def pandas(run: Run, table: str, options: Options) -> pa.Table:
    import pandas as library

    frames = [library.read_parquet(url, partitioning=None, dtype_backend="pyarrow") for url in run.urls(table)]
    for frame, url in zip(frames, run.urls(table), strict=True):
        if table in schema.PARTITIONED:
            frame[schema.PARTITIONED[table]] = url.split("=")[-1].split("/")[0]
    return pa.concat_tables([pa.Table.from_pandas(frame, preserve_index=False) for frame in frames], promote_options="permissive")


def datafusion(run: Run, table: str, options: Options) -> pa.Table:
    from datafusion import SessionContext
    from datafusion.object_store import AmazonS3

    context, url = SessionContext(), folder(run, table)
    if options:
        bucket = url.removeprefix("s3://").split("/")[0]
        keys = {name: options[f"aws_{name}"] for name in ("access_key_id", "secret_access_key")}
        store = AmazonS3(bucket, region="us-east-1", endpoint=options["aws_endpoint_url"], allow_http=True, **keys)
        context.register_object_store("s3://", store, bucket)
    partition = [(schema.PARTITIONED[table], pa.string())] if table in schema.PARTITIONED else []
    context.register_parquet("rows", url + "/", table_partition_cols=partition)
    return context.sql("SELECT * FROM rows").to_arrow_table()


def chdb(run: Run, table: str, options: Options) -> pa.Table:
    import chdb as library

    path = folder(run, table) + ("/*/*.parquet" if table in schema.PARTITIONED else "/*.parquet")
    source = f"file('{path}', Parquet)"
    if options:
        bucket = path.replace("s3://", options["aws_endpoint_url"] + "/")
        source = f"s3('{bucket}', '{options['aws_access_key_id']}', '{options['aws_secret_access_key']}', Parquet)"
    column = schema.PARTITIONED.get(table)
    partition = f", extract(_path, '{column}=([^/]+)') AS {column}" if column else ""
    settings = "SETTINGS output_format_arrow_string_as_string = 1, use_hive_partitioning = 0"
    return library.query(f"SELECT *{partition} FROM {source} {settings}", "ArrowTable")


def spark(run: Run, table: str, options: Options) -> pa.Table:
    from pyspark.sql import SparkSession

    config = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    session = SparkSession.builder.master("local[1]").config(map=config).getOrCreate()
    return session.read.parquet(folder(run, table)).toArrow()


def delta(run: Run, table: str, options: Options) -> pa.Table:
    from deltalake import DeltaTable

    return DeltaTable(table_url(run.out, "default", table), storage_options=dict(options) or None).to_pyarrow_table()


def polars_delta(run: Run, table: str, options: Options) -> pa.Table:
    import polars as library

    return library.scan_delta(table_url(run.out, "default", table), storage_options=dict(options) or None).collect().to_arrow()


READERS: dict[str, Callable[[Run, str, Options], pa.Table]] = {
    reader.__name__: reader for reader in (duckdb, polars, pandas, datafusion, chdb, spark, delta, polars_delta)
}
LOCAL_ONLY = {"spark": "its S3 client is a jar that no package index has"}


def values(read: pa.Table) -> list[dict]:
    """The rows, sorted, in plain Python: pairs of a map as a dict, empty lists and NaN as null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in sorted(value.items())}
        if isinstance(value, list | tuple):
            if value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
                return plain(dict(value))
            if value and all(isinstance(pair, dict) and pair.keys() == {"key", "value"} for pair in value):
                return plain({pair["key"]: pair["value"] for pair in value})
            return [plain(inner) for inner in value] or None
        if isinstance(value, bytes):
            return value.decode()
        return None if value == {} or (isinstance(value, float) and math.isnan(value)) else value

    return sorted(({name: plain(row[name]) for name in sorted(row)} for row in read.to_pylist()), key=str)
