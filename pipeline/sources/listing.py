"""From what the user wrote (paths, brace ranges, globs, folders) to the files it names."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from posixpath import commonpath, dirname

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]  # its stub leaves the error out

from pipeline import storage
from pipeline.refusal import Refusal, one_line, public
from pipeline.sources.sample import unsafe
from pipeline.sources.shard import Found

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
    paths = _expand_braces(pattern) if "{" in pattern else [pattern]
    if not paths:
        raise Refusal(f"source {public(source)!r} expands to more than {MOST_PATHS:,} paths; use a glob such as *.tar")
    globs = {path for path in paths if _is_glob(fs, path)}
    matches = [match for path in sorted(globs) for match in _match_glob(fs, path, source, claim)]
    for info in storage.infos(fs, [path for path in paths if path not in globs]):
        matches += _match_path(fs, info, source, claim)
    if globs or paths != [pattern]:
        return matches, _literal_folder(pattern)
    return matches, pattern if matches[0].root == pattern else dirname(pattern)


def _expand_braces(pattern: str) -> list[str]:
    """The paths that braces stand for; none where these are too many."""
    # braceexpand writes a range out in full before it gives its first member.
    sizes = [abs(int(end) - int(start)) + 1 for start, end in re.findall(r"\{(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})", pattern)]
    if math.prod(sizes) > MOST_PATHS:
        return []
    paths = list(islice(braceexpand(pattern), MOST_PATHS + 1))
    return paths if len(paths) <= MOST_PATHS else []


def _is_glob(fs, path: str) -> bool:
    return bool(re.search(r"[*?\[]", path)) and not ("[" in path and "*" not in path and fs.exists(path))


def _literal_folder(pattern: str) -> str:
    """The folder in which a pattern starts to match."""
    return dirname(re.split(r"[*?\[{]", pattern, maxsplit=1)[0])


def _match_glob(fs, pattern: str, source: str, claim: _Claim) -> list[Match]:
    matches = []
    for info in fs.glob(pattern, detail=True).values():
        if info["type"] == "directory":
            matches += _list_below(fs, info["name"].rstrip("/"))
        else:
            matches.append(Match(fs, info, _literal_folder(pattern)))
    return _keep_one_kind(matches, source, claim)


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
    return [Match(fs, info, folder) for info in fs.find(folder, detail=True).values() if "/." not in info["name"][len(folder) :]]


def _keep_one_kind(matches: list[Match], source: str, claim: _Claim) -> list[Match]:
    """Keep the files some kind claims; a folder with files of several kinds is refused."""
    claimed = [match for match in matches if match.info["type"] != "directory" and claim(match.info["name"])]
    kinds = sorted({kind for match in claimed if (kind := claim(match.info["name"]))})
    if not claimed:
        raise Refusal(f"source {public(source)!r} matches nothing that ends in {claim}")
    if len(kinds) > 1:
        name = public(source)
        raise Refusal(f"source {name!r} holds files of several kinds ({', '.join(kinds)}); say which with a pattern such as DIR/*.tar")
    return claimed


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
