"""One Delta table: its versions, the run that each of them refers to, and how another version comes about.

The protocol is that of delta.io (PROTOCOL.md); the library is deltalake, whose store's own client is told what s3fs knows.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import storage
from pipeline.refusal import Refusal, one_line
from pipeline.tables import files, schema
from pipeline.tables.read import Run

if TYPE_CHECKING:
    from deltalake import DeltaTable

APPLICATION = "saliency-atlas"  # whose transactions are numbered by their runs
CONFIGURATION = {"delta.enableExpiredLogCleanup": "false"}  # versions stay until `atlas gc` drops them
CLIENT = {"aws_conditional_put": "etag", "max_retries": "5"}  # about as patient as `storage.retrying`
STORES = ("file", "local", "s3", "s3a")
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9_.:/@~+-]*")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Moved(Exception):
    """Another version was committed since the table was read."""


def check(out: str, name: str) -> None:
    """Check that runs published as `name` can have Delta tables below `out`.

    Raises:
        Refusal: where the library is not installed, the store is another, or an address has letters that libraries of Delta get wrong.
    """
    require()
    if storage.protocol(out) not in STORES:
        raise Refusal(f"Delta tables lie in a folder or on S3; {out} is neither")
    if not _PLAIN_NAME.fullmatch(name):
        raise Refusal(f"--name {name}: the name of a run with Delta tables has letters, digits, - _ and . alone, and begins with no sign")
    address = storage.filesystem(out)[1]
    if not _PLAIN_ADDRESS.fullmatch(address):
        odd = sorted({*_PLAIN_ADDRESS.sub("", address)})
        raise Refusal(
            f"--out {out}: libraries that read Delta tables get addresses with {' '.join(map(repr, odd))} wrong; use another place"
        )


def require() -> None:
    """Check that the library is installed.

    Raises:
        Refusal: where it is not, with what installs it.
    """
    try:
        import deltalake  # noqa: F401
    except ImportError as error:
        raise Refusal("Delta tables need the library deltalake: pip install 'saliency-atlas[delta]'") from error


def load(url: str, version: int | None = None) -> "DeltaTable | None":
    """The table at an address, at its last version or another; None where there is none.

    Raises:
        DeltaError: where there is no such version. OSError: where the store fails.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    def read() -> DeltaTable:
        with _client_errors():
            return DeltaTable(_address(url), version=version, storage_options=_options(url))

    try:
        return storage.retrying(read)
    except TableNotFoundError:
        if version is None:
            return None
        raise


@contextmanager
def _client_errors() -> Iterator[None]:
    """Turn an error of the library's client into one that `storage.transient` knows: all but what it has a word for, as a missing right."""
    try:
        yield
    except OSError as error:
        raise (ConnectionError if "Generic S3 error" in str(error) else OSError)(one_line(error)) from error


def _address(url: str) -> str:
    return storage.filesystem(url)[1] if storage.is_local(url) else url


def _options(url: str) -> dict[str, str] | None:
    """The options with which the library's client asks the store that s3fs asks, as the same user; None for a folder."""
    if storage.is_local(url):
        return None
    fs, path = storage.filesystem(url)
    endpoint = fs.s3.meta.endpoint_url  # s3fs connects here
    key, secret, token = _keys(fs)
    options = {
        "aws_endpoint_url": fs.endpoint_url or fs.client_kwargs.get("endpoint_url"),
        "aws_region": _region(fs.split_path(path)[0], endpoint),
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_session_token": token,
        "aws_skip_signature": None if key else "true",
        "aws_allow_http": "true" if endpoint.startswith("http:") else None,
    }
    return {option: value for option, value in options.items() if value} | CLIENT


@lru_cache(maxsize=128)
def _region(bucket: str, endpoint: str) -> str:
    """The region of a bucket of an endpoint, which s3fs is led to and the library's client must know."""
    fs, _ = storage.filesystem(f"s3://{bucket}")
    return storage.retrying(lambda: fs.call_s3("head_bucket", Bucket=bucket)).get("BucketRegion") or fs.s3.meta.region_name


def _keys(fs: Any) -> tuple[str | None, str | None, str | None]:
    """The key, secret and token that s3fs signs with; nothing where it does not sign."""
    from fsspec.asyn import sync

    async def frozen() -> Any:
        credentials = await fs.session.get_credentials()
        return credentials and await credentials.get_frozen_credentials()

    if fs.key and not fs.anon:
        return fs.key, fs.secret, fs.token
    keys = None if fs.anon else sync(fs.loop, frozen)
    return (keys.access_key, keys.secret_key, keys.token) if keys else (None, None, None)


def transaction(run_id: str) -> int:
    """The number of a run's transaction: the microseconds since 1970 that its id begins with.

    Raises:
        Refusal: where an id begins otherwise.
    """
    try:
        moment = datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise Refusal(f"{run_id} is no id of a run, which begins with the time that it was made") from error
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond


def holds(table: "DeltaTable | None", run_id: str) -> bool:
    """Whether the rows of a table are those of a run."""
    return table is not None and table.transaction_version(APPLICATION) == transaction(run_id)


def run_ids(table: "DeltaTable") -> set[str]:
    """The runs whose files a version refers to; none where it has no rows."""
    return {path.split("/")[0] for path in pa.table(table.get_add_actions(flatten=True))["path"].to_pylist()}


def drop_versions(url: str, first: int) -> None:
    """Drop the versions before `first` from the log of a table, which then begins with a checkpoint of `first`.

    They go in order, so that a log that is only half cut still has each of its versions whole.
    """
    table = load(url, first)
    if table is None:
        return
    table.create_checkpoint()
    log = storage.join(url, "_delta_log")
    entries = sorted(path for path in files.below(log) if re.match(r"\d{20}\.", path))
    storage.remove([storage.join(log, path) for path in entries if int(path[:20]) < first])


def commit(url: str, table: "DeltaTable | None", run: Run, name: str) -> None:
    """Commit the files that a run has in the table `name` as the one next version, in place of those of the last.

    Parameters:
        url: the table's address, below which the files lie in the folder of the run.
        table: the table as it was when this version was decided upon; None where there was none. It moves on to the new version.

    Raises:
        Moved: where another version was committed since.
        OSError: where the store does not take it, or does not say so: it may have.
    """
    from deltalake import CommitProperties, Schema, Transaction
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    properties = CommitProperties({"run_id": run.run_id}, app_transactions=[Transaction(APPLICATION, transaction(run.run_id))])
    partition = [schema.PARTITIONED[name]] if name in schema.PARTITIONED else []
    fields = Schema.from_arrow(columns(run, name)) if table is None or name in run.tables else table.schema()
    actions = _actions(run, name)
    try:
        with _client_errors():
            if table is not None:
                table.create_write_transaction(actions, "overwrite", fields, partition, commit_properties=properties)
                return
            create_table_with_add_actions(
                _address(url),
                fields,
                actions,
                partition_by=partition,
                configuration=CONFIGURATION,
                storage_options=_options(url),
                commit_properties=properties,
            )
    except DeltaError as error:
        now = load(url)
        if now and (table is None or now.version() > table.version()):
            raise Moved from error
        raise OSError(f"{url} takes no version: {one_line(error)}") from error


def columns(run: Run, name: str) -> pa.Schema:
    """The columns of a run's table.

    Raises:
        Refusal: where they have types that Delta has not.
    """
    fields = run.dataset(name).schema
    if any(map(schema.engines_refuse, fields.types)):
        raise Refusal(f"run {run.run_id} has types of an earlier version, which Delta has not; publish a new run by its job")
    return fields


def _actions(run: Run, name: str) -> list[Any]:
    """The files of a run's table; none where the run has no such table."""
    from deltalake.transaction import AddAction

    column, made = schema.PARTITIONED.get(name), transaction(run.run_id) // 1000
    actions = []
    for entry in run.manifest["files"]:
        if entry["table"] == name:
            path = entry["path"].removeprefix(f"{name}/")
            values = {column: path.split("/")[0].removeprefix(f"{column}=")} if column else {}
            statistics = json.dumps({"numRecords": entry["rows"]})
            actions.append(AddAction(f"{run.run_id}/{path}", entry["bytes"], values, made, True, statistics))
    return actions
