"""Image folders: files below a folder, the class being the first sub-directory. A key is the path below the folder.

Where the sub-directories are splits (train, val, test, by their usual names), each is a folder of its own.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.refusal import Refusal, one_line, public
from pipeline.sources.sample import IMAGE_ENDINGS, unsafe
from pipeline.sources.shard import MEMBER_LIMIT, Found, Index, Kind, Sample, Shard
from pipeline.sources.splits import innermost, split_folders, split_of

log = logging.getLogger(__name__)
LARGEST_CHUNK = 1000  # files
CUT_ONE_IN = 256
AT_ONCE_FILES, AT_ONCE_BYTES = 32, 64 << 20  # asked of the store side by side


@dataclass(frozen=True)
class Root:
    """A folder below which keys start: of a source, or of a split in it."""

    url: str
    name: str  # below the sources' common prefix
    split: str | None
    files: list[Found]


def shards(files: Sequence[Found]) -> list[Shard]:
    """Cut each folder's sorted files into chunks.

    A chunk ends behind a file whose path hashes to 0, so a file that comes or goes changes its own chunk only.

    Raises:
        Refusal: some folders of a source are splits and others are not.
    """
    files_of: dict[str, list[Found]] = {}
    for file in files:
        files_of.setdefault(file.root, []).append(file)
    _tell_unlabelled(files_of)
    roots = (root for url, own in sorted(files_of.items()) for root in _roots(Root(url, own[0].root_name, None, own)))
    return [_shard(root, chunk) for root in roots for chunk in _chunks(root.url, root.files)]


def _tell_unlabelled(files_of: dict[str, list[Found]]) -> None:
    """Tell that folders of images are no classes where each is a source, as a shell makes them of a pattern without quotes."""
    flat = [root for root, files in files_of.items() if not any("/" in _key(root, file.url) for file in files)]
    for parent, count in Counter(root.rpartition("/")[0] for root in flat).items():
        if count > 1:
            log.warning(
                "%d folders in %s are sources, and no classes; as one source, that folder or a quoted pattern, they are",
                count,
                public(parent),
            )


def _roots(source: Root) -> list[Root]:
    """The source itself, or where its folders are splits, the folder of each."""
    files_of: dict[str, list[Found]] = {}
    for file in source.files:
        folder, _, rest = _key(source.url, file.url).partition("/")
        files_of.setdefault(folder if rest else "", []).append(file)
    loose, splits = files_of.pop("", []), _splits(source, files_of)
    if not splits:
        return [source]
    log.warning("%s: the folders %s are taken for splits, and those in them for classes", public(source.url), ", ".join(sorted(splits)))
    inner = [_split_root(source, folder, splits[folder], files_of[folder]) for folder in sorted(splits)]
    return ([replace(source, files=loose)] if loose else []) + inner


def _splits(source: Root, files_of: dict[str, list[Found]]) -> dict[str, str]:
    """Split by folder; empty where the folders are no splits. One folder alone is a split where all of its files lie deeper."""
    splits = split_folders(files_of)
    named = {folder: split for folder in files_of if (split := split_of(folder))}
    if not splits and {"train", *named.values()} != {"train"} and "train" in named.values():
        other = min(files_of.keys() - named.keys())
        raise Refusal(
            f"source {public(source.url)!r}: its folders {' and '.join(sorted(named))} are splits and {other!r} is none; "
            f"name those that are meant, as {public(source.url)}/{min(named)}"
        )
    alone = len(splits) == 1 and any(_key(source.url, file.url).count("/") == 1 for folder in splits for file in files_of[folder])
    return {} if alone else splits


def _split_root(source: Root, folder: str, split: str, files: list[Found]) -> Root:
    path = innermost(folder, [_key(source.url, file.url) for file in files])
    return Root(storage.join(source.url, path), f"{source.name}/{path}".lstrip("/"), split, files)


def _chunks(root: str, files: list[Found]) -> Iterator[list[Found]]:
    chunk = []
    for file in sorted(files, key=lambda file: _key(root, file.url)):
        chunk.append(file)
        ends = hashlib.sha256(_printable(_key(root, file.url))).digest()[0] % CUT_ONE_IN == 0
        if ends or len(chunk) == LARGEST_CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _printable(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _key(root: str, url: str) -> str:
    return url[len(root) :].lstrip("/")


def _shard(root: Root, files: list[Found]) -> Shard:
    keys = [_key(root.url, file.url) for file in files]
    etag = None
    if all(file.etag for file in files):
        etag = _fingerprint(zip(keys, (f"{file.size} {file.etag}" for file in files), strict=True))
    return Shard(
        kind="folder",
        name=root.name,
        urls=tuple(file.url for file in files),
        size=sum(file.size for file in files),
        etag=etag,
        part=keys[0],
        root=root.url,
        sizes=tuple(file.size for file in files),
        split=root.split,
    )


def _fingerprint(contents) -> str:
    """One hash over (key, content's fingerprint) of all files of a chunk."""
    digest = hashlib.sha256()
    for key, content in contents:
        digest.update(_printable(key) + b"\0" + content.encode() + b"\n")
    return digest.hexdigest()


def index(shard: Shard) -> Index:
    keys = [_key(shard.root, url) for url in shard.urls]
    digest = None if shard.etag else _fingerprint(zip(keys, map(_content, shard.urls), strict=True))
    labelled = sum("/" in key for key in keys)
    labels = Counter(key.split("/")[0] for key in keys if "/" in key)
    splits = (shard.split,) if shard.split else ()
    return Index(shard.identity(digest), len(keys), labelled, splits=splits, labels=tuple(labels.items()))


def _content(url: str) -> str:
    try:
        with storage.open_read(url) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except Exception as error:  # the file's own problem is told when its turn to be read comes
        return f"unreadable: {type(error).__name__}"


def read(shard: Shard, start: int, stop: int | None, index: Index | None) -> Iterator[Sample]:
    """Files are fetched a few at a time, so that a remote store's latency is paid once for all of them."""
    batch, size = [], 0
    for position in range(start, len(shard.urls) if stop is None else min(stop, len(shard.urls))):
        batch.append(position)
        size += shard.sizes[position]
        if len(batch) == AT_ONCE_FILES or size >= AT_ONCE_BYTES:
            yield from _read(shard, batch)
            batch, size = [], 0
    yield from _read(shard, batch)


def _read(shard: Shard, positions: list[int]) -> Iterator[Sample]:
    urls = [shard.urls[position] for position in positions if shard.sizes[position] <= MEMBER_LIMIT]
    contents = dict(zip(urls, storage.read_many(urls) if urls else [], strict=True))
    for position in positions:
        yield _sample(shard, position, contents.get(shard.urls[position]))


def _sample(shard: Shard, position: int, content: bytes | Exception | None) -> Sample:
    key = _key(shard.root, shard.urls[position])
    folder = key.split("/")[0] if "/" in key else None
    reason, printable = unsafe(key)
    if reason:
        return Sample(printable, problems=(("UnsafeKey", reason),))
    if content is None:
        message = f"the file claims {shard.sizes[position]:,} bytes; at most {MEMBER_LIMIT:,} are read"
        return Sample(key, label=folder, split=shard.split, problems=(("MemberTooLarge", message),))
    if isinstance(content, Exception):
        kind = "NotFound" if isinstance(content, FileNotFoundError) else "UnreadableImage"
        return Sample(key, label=folder, split=shard.split, problems=((kind, one_line(content)),))
    return Sample(key, image=content, label=folder, split=shard.split)


KIND = Kind(IMAGE_ENDINGS, shards, index, read)
