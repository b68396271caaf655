"""The one place that opens paths: every path is a URL fsspec knows (a local path, s3://, memory://, ...).

A store that stumbles is asked again here and nowhere else; `transient` says which errors are worth it.
"""

import errno
import json
import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from posixpath import dirname
from typing import Any, TypeVar

import fsspec

from pipeline.refusal import Refusal, one_line

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

WAITS = (0.2, 1.0, 5.0)  # seconds before an operation is tried again, on top of what the store's own client does
PASSING = {
    "EAGAIN",
    "EBUSY",
    "EIO",
    "EREMOTEIO",
    "ESTALE",
    "ETIMEDOUT",
    "ENETDOWN",
    "ENETUNREACH",
    "ENETRESET",
    "EHOSTDOWN",
    "EHOSTUNREACH",
}
S3_CLIENT = {"retries": {"mode": "standard", "total_max_attempts": 3}, "connect_timeout": 10, "read_timeout": 60}
READ_AHEAD = 8 << 20  # bytes one request to a remote store asks for while a file is read front to back
ARCHIVES = ("archive", "libarchive", "tar", "zip")  # file systems inside one file of another
FEW_PATHS = 8  # up to here one request per path is cheaper than listing the folder


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of `url` and the path in it (local paths become absolute).

    Raises:
        ValueError: the protocol is unknown. ImportError: its library is not installed. Refusal: the path lies inside an archive.
    """
    # A remembered listing would hide what changed since; a nightly job asks for exactly that.
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol(url) in ("s3", "s3a"):
        # The endpoint is part of fsspec's cache key only when it is named; from the environment alone, a changed one would go unseen.
        options["endpoint_url"] = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        options["config_kwargs"] = deepcopy(S3_CLIENT)  # the client writes into what it is given
    url, head = os.fspath(url), protocol(url)
    if not {*head.split("::")}.isdisjoint(ARCHIVES):
        raise Refusal(f"{url} lies inside an archive, where nothing is read or written; unpack it, or name a WebDataset tar as it is")
    if "::" in head:
        return fsspec.url_to_fs(url, **options)  # one file system inside another, as the user wrote it
    kind = fsspec.get_filesystem_class(head)  # not url_to_fs: it takes a file's name with :: in it for such a chain
    return kind(**options, **kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)


def protocol(url: str) -> str:
    """`s3` of `s3://bucket/key`, `file` where no protocol is written."""
    head, mark, _ = os.fspath(url).partition("://")
    return head.lower() if mark else "file"


def is_local(url: str) -> bool:
    return protocol(url) in ("file", "local")


def url_of(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """The URL that leads back to `path` of `fs`; local paths stay plain."""
    url = fs.unstrip_protocol(path)
    return url.removeprefix("file://") if is_local(url) else url


def join(url: str, *parts: str) -> str:
    return "/".join([os.fspath(url).rstrip("/"), *(part.strip("/") for part in parts)])


def transient(error: BaseException | None) -> bool:
    """Whether the same request may well succeed a moment later: a busy or failing server, a lost connection, a cut answer.

    A path that is missing, forbidden (expired credentials too), full or damaged stays so.
    """
    import http.client

    while error is not None:
        if getattr(error, "in_vain", False):
            return False
        if isinstance(error, TimeoutError | ConnectionError | http.client.IncompleteRead):
            return True
        if isinstance(error, OSError) and error.errno is not None and errno.errorcode.get(error.errno) in PASSING:
            return True
        # Clients of stores are named, not imported: a local job needs none of them.
        names = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
        if names & {"botocore.HTTPClientError", "aiohttp.ClientPayloadError", "aiohttp.ClientConnectionError"}:
            return True
        error = error.__cause__
    return False


class _Retries:
    """Counts the repeated requests of this process."""

    count = 0


def retries() -> int:
    """The number of requests that this process has repeated."""
    return _Retries.count


def retrying(call: Callable[[], Answer]) -> Answer:
    """The answer of `call`, which is asked again after `WAITS` while its errors are transient.

    An error that comes up from a call that was itself asked again to no avail is not worth another round.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            if wait is None or not transient(error):
                error.in_vain = True  # type: ignore[attr-defined]  # a mark for `transient`, on an exception of any class
                raise
            _Retries.count += 1
            log.warning("%s: trying again in %.1f s", one_line(error), wait)
            time.sleep(wait * random.uniform(0.5, 1.5))  # at random, so that workers that failed together do not come back together
    raise AssertionError("the last try answers or raises")


def open_read(url: str):
    """Open for reading front to back; remote stores are asked for `READ_AHEAD` bytes at a time."""
    fs, path = filesystem(url)
    if is_local(url):
        return fs.open(path, "rb")
    return retrying(lambda: fs.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead"))


def read_bytes(url: str) -> bytes:
    fs, path = filesystem(url)
    return retrying(lambda: fs.cat_file(path))


def read_json(url: str, noun: str, form: str, parse: Callable[[Any], Answer]) -> Answer:
    """A user's JSON file, as `parse` makes a value of its content.

    Args:
        url: the file.
        noun: what such a file lists, in the plural, such as "class sets".
        form: the content that such a file must have.
        parse: raises ValueError, LookupError, TypeError or AttributeError where the content has another form.

    Raises:
        Refusal: the file does not exist, or it has another form; a Refusal of `parse` stays as it is.
    """
    try:
        return parse(json.loads(read_bytes(url)))
    except FileNotFoundError as error:
        raise Refusal(f"there is no file of {noun} at {url}; it must hold {form}") from error
    except Refusal:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal(f"{url} is no file of {noun}; it must hold {form}") from error


def read_many(urls: list[str]) -> list[bytes | Exception]:
    """The contents of files of one store, asked for side by side; a file that cannot be read is its exception."""
    fs, _ = filesystem(urls[0])
    paths = [fs._strip_protocol(url) for url in urls]
    contents = fs.cat_ranges(paths, None, None, on_error="return")  # not cat: it takes [ and * in a name for a pattern
    return [_again(url, content) if isinstance(content, Exception) else content for url, content in zip(urls, contents, strict=True)]


def _again(url: str, error: Exception) -> bytes | Exception:
    if not transient(error):
        return error
    try:
        return read_bytes(url)
    except Exception as last:
        return last


def remove(urls: list[str]) -> None:
    """Remove files of one store, in order; what is gone already is fine."""
    for url in urls:
        fs, path = filesystem(url)
        try:
            retrying(partial(fs.rm_file, path))
        except FileNotFoundError:
            continue


def remove_empty(url: str) -> None:
    """Remove a local folder and the empty ones in it and around it; other stores have no folders."""
    if not is_local(url):
        return
    path = filesystem(url)[1]
    for folder, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)
    with suppress(OSError):
        os.removedirs(dirname(path))


def etag(info: dict) -> str | None:
    """The store's own fingerprint of a file's content, where it keeps one."""
    value = info.get("ETag") or info.get("etag")
    return str(value).strip('"') if value else None


def infos(fs: fsspec.AbstractFileSystem, paths: list[str]) -> list[dict]:
    """The store's description of each path, in their order; `type` is "missing" where there is nothing."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(dirname(path), []).append(path)
    info_of: dict[str, dict] = {}
    for folder, folder_paths in folders.items():
        if len(folder_paths) > FEW_PATHS:
            info_of |= _list_folder(fs, folder)
        else:
            info_of |= {path: info for path in folder_paths if (info := _info(fs, path))}
    return [info_of.get(path) or {"name": path, "size": 0, "type": "missing"} for path in paths]


def _list_folder(fs, folder: str) -> dict[str, dict]:
    try:
        return {info["name"].rstrip("/"): info for info in retrying(lambda: fs.ls(folder, detail=True))}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _info(fs, path: str) -> dict | None:
    try:
        return retrying(lambda: fs.info(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
