"""From what the user wrote (paths, brace ranges, globs, folders) to the files it names."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from itertools import islice
from posixpath import commonpath, dirname

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]  # its stub leaves the error out

from pipeline import storage
from pipeline.refusal import Refusal, one_line, public
from pipeline.sources.links import follow_links
from pipeline.sources.sample import unsafe
from pipeline.sources.shard import Found

log = logging.getLogger(__name__)
MOST_PATHS = 1_000_000  # a brace range of more is a slip of the hand


@dataclass(frozen=True)
class Match:
    """A file, as its store describes it, and the folder its source starts in."""

    fs: object
    info: dict
    root: str


def find(sources: Sequence[str], endings: dict[str, str]) -> dict[str, list[Found]]:
    """The files of each kind that `sources` name; `endings` says which kind claims which file ending.

    Raises:
        Refusal: naming the source and the fix.
    """
    claim = _Claim(endings)
    if not sources:
        raise Refusal(f"no source is given; name a folder of images, files ending in {claim}, or a pattern of them")
    matches: dict[str, Match] = {}
    bases = []
    for source in sources:
        source_matches, base = _match_source(str(source), claim)
        bases.append((storage.protocol(source), base))
        for match in source_matches:
            url = storage.url_of(match.fs, match.info["name"])
            # A file that two sources name belongs to the outer one, whatever their order.
            if url not in matches or len(match.root) < len(matches[url].root):
                matches[url] = match
    if all(match.info["type"] == "missing" for match in matches.values()):
        raise Refusal(f"nothing exists at {public(' '.join(map(str, sources)))}; check the path, the bucket and the endpoint")
    return _sort_files(matches, claim, bases)


class _Claim:
    """Which kind claims a path."""

    def __init__(self, endings: dict[str, str]):
        self.endings = endings

    def __call__(self, path: str) -> str | None:
        name = path.rsplit("/", 1)[-1].lower()
        return next((kind for ending, kind in self.endings.items() if name.endswith(ending)), None)

    def __str__(self) -> str:
        return " ".join(sorted(self.endings))


def _match_source(source: str, claim: _Claim) -> tuple[list[Match], str]:
    """The matches of one source and its base; an error of the store becomes a `Refusal` that names the source."""
    name = public(source)
    try:
        return _matches(source, claim)
    except Refusal:
        raise
    except UnbalancedBracesError as error:
        raise Refusal(f"source {name!r} has a brace without its partner") from error
    except FileNotFoundError as error:
        raise Refusal(f"source {name!r} matches nothing: {one_line(error)}") from error
    except PermissionError as error:
        raise Refusal(f"source {name!r} is refused to us ({one_line(error)}); check the credentials and who may list it") from error
    except Exception as error:
        raise Refusal(f"cannot list source {name!r}: {type(error).__name__}: {one_line(error)}") from error


def _matches(source: str, claim: _Claim) -> tuple[list[Match], str]:
    fs, pattern = storage.filesystem(source)
    fs = follow_links(fs)
    paths = _expand_braces(pattern) if "{" in pattern else [pattern]
    if not paths:
        raise Refusal(f"source {public(source)!r} expands to more than {MOST_PATHS:,} paths; use a glob such as *.tar")
    start = _literal_folder(fs, pattern)
    globs = {path for path in paths if _is_glob(fs, path, start)}
    several = bool(globs) or paths != [pattern]
    matches = [match for path in sorted(globs) for match in _match_glob(fs, path, source, claim, start)]
    folders: list[Match] = []
    for info in storage.infos(fs, [path for path in paths if path not in globs]):
        (folders if info["type"] == "directory" else matches).extend(_match_path(fs, info, source, claim))
    matches += _root_classes(folders) if several else folders
    if several:
        return matches, start
    return matches, pattern if matches[0].root == pattern else dirname(pattern)


def _expand_braces(pattern: str) -> list[str]:
    """The paths that braces stand for; none where these are too many."""
    # braceexpand writes a range out in full before it gives its first member.
    sizes = [abs(int(end) - int(start)) + 1 for start, end in re.findall(r"\{(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})", pattern)]
    if math.prod(sizes) > MOST_PATHS:
        return []
    paths = list(islice(braceexpand(pattern), MOST_PATHS + 1))
    return paths if len(paths) <= MOST_PATHS else []


def _is_glob(fs, path: str, start: str) -> bool:
    """Whether a path is a pattern behind the folder in which it starts to match."""
    name = path[len(start) :]
    return bool(re.search(r"[*?\[]", name)) and not ("[" in name and "*" not in name and fs.exists(path))


def _literal_folder(fs, pattern: str) -> str:
    """The folder in which a pattern starts to match; brackets in the name of a folder that is there are no pattern."""
    folder = dirname(re.split(r"[*?{]", pattern, maxsplit=1)[0])
    if "[" not in folder:
        return folder
    names = folder.split("/")
    folders = ["/".join(names[: i + 1]) for i in range(len(names))]
    missing = next((i for i, name in enumerate(names) if "[" in name and not fs.isdir(folders[i])), None)
    return folder if missing is None else dirname(folders[missing])


def _match_glob(fs, pattern: str, source: str, claim: _Claim, start: str) -> list[Match]:
    infos = fs.glob(escape(start) + pattern[len(start) :], detail=True).values()
    if "/." not in pattern[len(start) :]:
        infos = [info for info in infos if not _is_hidden(info["name"], start)]
    files = [Match(fs, info, start) for info in infos if info["type"] != "directory"]
    below = [match for info in infos if info["type"] == "directory" for match in _list_below(fs, info["name"].rstrip("/"))]
    claimed = _keep_one_kind(files + below, source, claim)
    loose = [match for match in claimed if match.root == start]
    return loose + _root_classes([match for match in claimed if match.root != start], start if loose else None)


def _root_classes(matches: list[Match], root: str | None = None) -> list[Match]:
    """The files below folders that a pattern matches: a folder is a class where files lie in one directly, else a dataset of its own.

    Keys of classes start in `root`, or in the folder around theirs.
    """
    if any(match.root == dirname(match.info["name"]) for match in matches):
        return [replace(match, root=dirname(match.root) if root is None else root) for match in matches]
    return matches


def _match_path(fs, info: dict, source: str, claim: _Claim) -> list[Match]:
    path = info["name"].rstrip("/")
    if info["type"] == "directory":
        return _keep_one_kind(_list_below(fs, path), source, claim)
    if claim(path):
        return [Match(fs, info, dirname(path))]
    if info["type"] == "missing":
        raise Refusal(f"source {public(source)!r} matches nothing: there is no {path}")
    raise Refusal(f"source {public(source)!r} is of no known kind; give a folder of images or files ending in {claim}")


def _list_below(fs, folder: str) -> list[Match]:
    return [Match(fs, info, folder) for info in fs.find(folder, detail=True).values() if not _is_hidden(info["name"], folder)]


def _is_hidden(path: str, folder: str) -> bool:
    """Whether it, or a folder that it lies in below this one, is hidden."""
    below = path[len(folder) :]
    return below.startswith(".") or "/." in below


def _keep_one_kind(matches: list[Match], source: str, claim: _Claim) -> list[Match]:
    """Keep the files some kind claims, and tell how many others there are; a folder with files of several kinds is refused."""
    kinds_of = [(match, claim(match.info["name"])) for match in matches if match.info["type"] != "directory"]
    claimed = [match for match, kind in kinds_of if kind]
    kinds = sorted({kind for _, kind in kinds_of if kind})
    others = {match.info["name"] for match, kind in kinds_of if not kind}
    name = public(source)
    if not claimed:
        raise Refusal(
            f"source {name!r} matches nothing that ends in {claim}" + (f"; it has {in_words(count_endings(others))}" if others else "")
        )
    if len(kinds) > 1:
        raise Refusal(f"source {name!r} holds files of several kinds ({', '.join(kinds)}); say which with a pattern such as DIR/*.tar")
    if others:
        log.warning("source %r: files that are not read: %s; those read end in %s", name, in_words(count_endings(others)), claim)
    return claimed


def count_endings(paths: Iterable[str]) -> dict[str, int]:
    """Ending in lower case -> how many of some files have it, the most frequent first."""
    names = (path.rsplit("/", 1)[-1].lower() for path in paths)
    counts = Counter(f".{name.rsplit('.', 1)[1]}" if "." in name else "without ending" for name in names)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def in_words(counts: Mapping[str, int], most: int = 6) -> str:
    """Counted endings on a line."""
    words = [f"{count} {ascii(ending)[1:-1][:20]}" for ending, count in counts.items()]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more endings" if len(words) > most else "")


def _sort_files(matches: dict[str, Match], claim: _Claim, bases: list[tuple[str, str]]) -> dict[str, list[Found]]:
    prefix = _common(bases)
    files: dict[str, list[Found]] = {}
    for url, match in sorted(matches.items()):
        path = match.info["name"]
        kind = claim(path)
        assert kind, "every match is a file of some kind"
        files.setdefault(kind, []).append(
            Found(
                url=url,
                name=_name(url, path, prefix),
                root=storage.url_of(match.fs, match.root),
                root_name=_name(url, match.root, prefix),
                size=match.info["size"] or 0,
                etag=storage.etag(match.info),
            )
        )
    return files


def _common(bases: Iterable[tuple[str, str]]) -> str | None:
    """The folder all sources share, or None where they lie in different stores."""
    bases = set(bases)
    if len({protocol for protocol, _ in bases}) > 1:
        return None
    return commonpath([path for _, path in bases])


def _name(url: str, path: str, prefix: str | None) -> str:
    name = f"{storage.protocol(url)}/{path.strip('/')}" if prefix is None else path[len(prefix) :].strip("/")
    return unsafe(name)[1]
