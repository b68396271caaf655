"""Datasets as shards: list them, index one, read a range of one, decode one image.

A kind of source is one file in this folder that holds a `KIND`; the registry below finds it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules

from pipeline.refusal import one_line
from pipeline.sources.listing import find
from pipeline.sources.shard import Box, Found, Index, Kind, Problem, Sample, Shard, ShardError, SourceError
from pipeline.storage import retrying

__all__ = ["Box", "Found", "Index", "KINDS", "Kind", "Problem", "Sample", "Shard", "ShardError", "SourceError"]
__all__ += ["identity", "index", "list_shards", "numbered_index", "read"]


def _kinds() -> dict[str, Kind]:
    modules = {module.name: import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)}
    kinds = {name: module.KIND for name, module in sorted(modules.items()) if hasattr(module, "KIND")}
    endings = [ending for kind in kinds.values() for ending in kind.endings]
    twice = {ending for ending in endings if endings.count(ending) > 1}
    if twice:
        raise ValueError(f"two kinds of source claim {', '.join(sorted(twice))}")
    return kinds


KINDS: dict[str, Kind] = _kinds()


def list_shards(sources: Sequence[str]) -> list[Shard]:
    """The shards that paths, brace ranges, globs and folders name, sorted by name.

    Raises:
        Refusal: a source matches nothing, mixes kinds or cannot be listed; the message names it and the fix.
    """
    files_of = find(sources, {ending: name for name, kind in KINDS.items() for ending in kind.endings})
    shards = [shard for name, files in files_of.items() for shard in KINDS[name].shards(files)]
    return sorted(shards, key=lambda shard: (shard.name, shard.part, shard.kind))


def index(shard: Shard) -> Index:
    """Count a shard's samples in one pass. Never raises for bad input: what is wrong is in `problems`. `labels` are left out."""
    return replace(_index(shard), labels=())


def _index(shard: Shard) -> Index:
    try:
        return retrying(lambda: KINDS[shard.kind].index(shard))
    except Exception as error:  # the shard boundary: one bad shard is a row, and its neighbours go on
        failure = _failure(error)
        identity = shard.identity(f"unreadable: {failure.error}")
        return Index(identity, 0, 0, (shard.problem(failure.error, failure.message),))


def numbered_index(numbered: tuple[int, Shard]) -> tuple[int, Index]:
    """One shard's index with its labels, and the position it was asked for."""
    return numbered[0], _index(numbered[1])


def read(shard: Shard, start: int = 0, stop: int | None = None, index: Index | None = None) -> Iterator[Sample]:
    """Yield the samples at positions start <= i < stop, as `index` counted them.

    With the shard's index the reader starts near `start` instead of at the front.

    Raises:
        ShardError: the shard cannot be read, changed since it was listed, or ended before `stop`.
    """
    count = 0
    stop = index.count if stop is None and index else stop
    try:
        for sample in KINDS[shard.kind].read(shard, start, stop, index):
            yield sample
            count += 1
    except Exception as error:
        raise _failure(error) from error
    if stop is not None and count < stop - start:
        cause = ConnectionError("the store gave fewer bytes than it had claimed")
        raise ShardError("ShortRead", f"{count} of the {stop - start} samples from position {start} came") from cause


def identity(shard: Shard) -> str | None:
    """The shard's identity where the listing alone decides it (stores with etags), else None: `index` it."""
    return shard.identity() if shard.etag else None


def _failure(error: Exception) -> ShardError:
    if isinstance(error, ShardError):
        return error
    if isinstance(error, FileNotFoundError):
        return ShardError("NotFound", f"there is no such file: {one_line(error)}")
    return ShardError("UnreadableShard", f"{type(error).__name__}: {one_line(error)}")
