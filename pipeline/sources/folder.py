"""Image folders: files below a folder, the class being the first sub-directory. A key is the path below the folder."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline import storage
from pipeline.refusal import one_line
from pipeline.sources.sample import IMAGE_ENDINGS, unsafe
from pipeline.sources.shard import MEMBER_LIMIT, Found, Index, Kind, Sample, Shard

LARGEST_CHUNK = 1000  # files
CUT_ONE_IN = 256
AT_ONCE_FILES, AT_ONCE_BYTES = 32, 64 << 20  # asked of the store side by side


def shards(files: Sequence[Found]) -> list[Shard]:
    """Cut each folder's sorted files into chunks.

    A chunk ends behind a file whose path hashes to 0, so a file that comes or goes changes its own chunk only.
    """
    roots: dict[str, list[Found]] = {}
    for file in files:
        roots.setdefault(file.root, []).append(file)
    return [_shard(root, chunk) for root, files in sorted(roots.items()) for chunk in _chunks(root, files)]


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


def _shard(root: str, files: list[Found]) -> Shard:
    keys = [_key(root, file.url) for file in files]
    etag = None
    if all(file.etag for file in files):
        etag = _fingerprint(zip(keys, (f"{file.size} {file.etag}" for file in files), strict=True))
    return Shard(
        kind="folder",
        name=files[0].root_name,
        urls=tuple(file.url for file in files),
        size=sum(file.size for file in files),
        etag=etag,
        part=keys[0],
        root=root,
        sizes=tuple(file.size for file in files),
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
    return Index(shard.identity(digest), len(keys), labelled, labels=tuple(labels.items()))


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
        return Sample(key, label=folder, problems=(("MemberTooLarge", message),))
    if isinstance(content, Exception):
        kind = "NotFound" if isinstance(content, FileNotFoundError) else "UnreadableImage"
        return Sample(key, label=folder, problems=((kind, one_line(content)),))
    return Sample(key, image=content, label=folder)


KIND = Kind(IMAGE_ENDINGS, shards, index, read)
