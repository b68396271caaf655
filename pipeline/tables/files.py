"""Files below an output: written whole or not at all, and one of them replaced only if nobody else has."""

import hashlib
import io
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.refusal import Refusal, one_line
from pipeline.storage import filesystem, is_local, join, protocol, read_bytes, retrying

LOCK_SECONDS = 60


CONTENT_TYPE = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}  # as stores' clients call it


def write_bytes(url: str, content: bytes, media_type: str | None = None) -> None:
    """Write a file that is seen whole or not at all: a rename locally, a single put elsewhere.

    A store that keeps types of files tells browsers this `media_type`; without one they would save a page and not show it.
    """
    fs, path = filesystem(url)
    if not is_local(url):
        name = CONTENT_TYPE.get(protocol(url))
        stated = {name: media_type} if name and media_type else {}
        retrying(lambda: fs.pipe_file(path, content, **stated))
        return
    with _draft(path) as draft:
        draft.write_bytes(content)


@contextmanager
def _draft(path: str):
    """A local file beside `path` that takes its place in the end."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def write_json(url: str, content) -> None:
    """Write a value as indented JSON with sorted keys, whole or not at all."""
    write_bytes(url, json.dumps(content, indent=1, sort_keys=True).encode())


def read_parquet(url: str) -> pa.Table:
    """Read a whole Parquet file."""
    return pq.read_table(io.BytesIO(read_bytes(url)))


def copy(source: str, target: str) -> None:
    """Copy within one store, without passing through this machine where the store can; the copy is seen whole or not at all."""
    fs, path = filesystem(source)
    target_path = fs._strip_protocol(target)
    if not is_local(source):
        retrying(lambda: fs.cp_file(path, target_path))
        return
    with _draft(target_path) as draft:
        retrying(lambda: fs.cp_file(path, str(draft)))


def below(url: str) -> dict[str, dict]:
    """Every file below `url`: path relative to it -> the store's record of it (`size`, a time); empty where there is nothing."""
    fs, path = filesystem(url)
    try:
        records = retrying(lambda: fs.find(path, detail=True))
    except FileNotFoundError:
        return {}
    return {file[len(path.rstrip("/")) :].strip("/"): record for file, record in records.items()}


def check_writable(out: str) -> None:
    """Write and remove an empty file.

    Raises:
        Refusal: where `out` cannot be written, with the store's reason.
    """
    url = join(out, f".writable-{os.getpid()}-{time.monotonic_ns()}")
    try:
        write_bytes(url, b"")
        fs, path = filesystem(url)
        fs.rm_file(path)
    except Exception as error:
        raise Refusal(
            f"--out {out} cannot be written ({type(error).__name__}: {one_line(error)}); check the place and its permissions"
        ) from error


def read_versioned(url: str) -> tuple[bytes | None, str | None]:
    """A small file's content and a version that changes with it; None and None where it does not exist."""
    if protocol(url) in ("s3", "s3a"):
        fs, path = filesystem(url)
        bucket, key, _ = fs.split_path(path)
        try:
            return retrying(lambda: _body_and_etag(fs, bucket, key))
        except FileNotFoundError:
            return None, None
    try:
        content = read_bytes(url)
    except FileNotFoundError:
        return None, None
    return content, hashlib.sha256(content).hexdigest()


def _body_and_etag(fs, bucket: str, key: str) -> tuple[bytes, str]:
    from fsspec.asyn import sync

    async def read() -> tuple[bytes, str]:
        response = await fs._call_s3("get_object", Bucket=bucket, Key=key)
        async with response["Body"] as stream:
            return await stream.read(), response["ETag"]

    return sync(fs.loop, read)


def replace(url: str, content: bytes, version: str | None, single_writer: bool = False) -> bool:
    """Replace a file only if it is still at `version` (None: does not exist); False where somebody was faster.

    Raises:
        Refusal: on a store without a conditional write, unless this is the promised single writer.
    """
    if protocol(url) in ("s3", "s3a"):
        return _replace_on_s3(url, content, version)
    if is_local(url):
        with _locked(Path(filesystem(url)[1])):
            if read_versioned(url)[1] != version:
                return False
            write_bytes(url, content)
            return True
    if not single_writer:
        raise Refusal(f"{url} is on a store without conditional writes; promise with --single-writer that no other job publishes there")
    write_bytes(url, content)
    return True


def _replace_on_s3(url: str, content: bytes, version: str | None) -> bool:
    """s3fs itself only knows If-None-Match; the client below it takes If-Match as well."""
    from botocore.exceptions import ClientError

    fs, path = filesystem(url)
    bucket, key, _ = fs.split_path(path)
    condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
    try:
        retrying(lambda: fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition))
    except (ClientError, OSError) as error:
        if _lost_the_race(error):
            return False
        raise
    return True


def _lost_the_race(error: BaseException | None) -> bool:
    """s3fs turns the client's 412 and 409 into OSErrors that keep the original as their cause."""
    while error is not None:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409") or isinstance(error, FileExistsError):
            return True
        error = error.__cause__
    return False


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 where it has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def _locked(path: Path):
    """Hold `path`.lock, created exclusively; a lock older than a minute belongs to a job that died."""
    lock, limit = path.with_name(path.name + ".lock"), time.monotonic() + LOCK_SECONDS
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if _age(lock) > LOCK_SECONDS:
                lock.unlink(missing_ok=True)
            elif time.monotonic() > limit:
                raise Refusal(f"{lock} is held by another job; remove it if no job is publishing") from None
            else:
                time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
