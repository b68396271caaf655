"""The files below a dataset's root, listed once, and its text tables, read line by line."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from pipeline import storage
from pipeline.datasets.layouts import csv_rows
from pipeline.refusal import Refusal, one_line, public
from pipeline.sources.links import follow_links
from pipeline.sources.sample import IMAGE_ENDINGS


@dataclass(frozen=True)
class Tree:
    """`files` maps each path below `root` to its size and what changes with its content (the store's etag, or the time of its last change).

    Hidden files and what archives of a Mac leave behind are not in it. Links to folders are followed.
    """

    root: str
    files: dict[str, tuple[int, str]]

    @classmethod
    def of(cls, root: str) -> "Tree":
        """List a folder, local or remote.

        Raises:
            Refusal: there is no such folder, or nothing in it.
        """
        try:
            fs, path = storage.filesystem(root)
            infos = follow_links(fs).find(path, detail=True)
        except Exception as error:
            raise Refusal(f"--root {public(root)} cannot be listed ({type(error).__name__}: {one_line(error)})") from error
        base = path.rstrip("/")
        info_of = {name[len(base) :].lstrip("/"): info for name, info in sorted(infos.items())}
        files = {name: (info["size"] or 0, _stamp(info)) for name, info in info_of.items() if not _is_litter(name)}
        if list(files) == [""]:
            raise Refusal(f"--root {public(root)} is a file; name the folder it lies in")
        if not files:
            raise Refusal(f"--root {public(root)}: there is no such folder, or nothing in it")
        return cls(storage.url_of(fs, base), files)

    def below(self, folder: str) -> "Tree":
        """The files in a folder of it."""
        start = f"{folder}/"
        return Tree(self.url(folder), {path[len(start) :]: facts for path, facts in self.files.items() if path.startswith(start)})

    def folders(self, depth: int) -> list["Tree"]:
        """The folders so deep below the root that hold files beside images, somewhere in them."""
        others = self.files.keys() - {*self.images}
        files_of: dict[str, dict] = {"/".join(path.split("/")[:depth]): {} for path in others if path.count("/") >= depth}
        for path, facts in self.files.items() if files_of else ():
            parts = path.split("/", depth)
            if (folder := "/".join(parts[:depth])) in files_of:
                files_of[folder][parts[depth]] = facts
        return [Tree(self.url(folder), files) for folder, files in sorted(files_of.items())]

    def url(self, path: str) -> str:
        return storage.join(self.root, path)

    def __contains__(self, path: str) -> bool:
        return path in self.files

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Paths of images, sorted."""
        return tuple(path for path in self.files if path.lower().endswith(IMAGE_ENDINGS))

    def first(self, *paths: str) -> str | None:
        """The first of these files that is there."""
        return next((path for path in paths if path in self.files), None)

    def named(self, name: str) -> str | None:
        """The one nearest the root of all files with this name."""
        paths = [path for path in self.files if path.rpartition("/")[2] == name]
        return min(paths, key=lambda path: (path.count("/"), path), default=None)

    def needed(self, *paths: str) -> str:
        """As `first`.

        Raises:
            Refusal: none of them is there.
        """
        path = self.first(*paths)
        if path is None:
            raise Refusal(f"{public(self.root)} has no {' or '.join(paths)}, which the layout needs")
        return path

    def content(self, path: str) -> bytes:
        return storage.read_bytes(self.url(path))

    @contextmanager
    def _text(self, path: str, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
        """A text file, opened for reading; UTF-8, or UTF-16 as spreadsheets mark it."""
        with storage.open_read(self.url(path)) as raw:
            wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            raw.seek(0)
            try:
                with io.TextIOWrapper(raw, "utf-16" if wide else "utf-8-sig", newline=newline) as text:
                    yield text
            except UnicodeDecodeError as error:
                raise Refusal(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start}); save it in UTF-8") from error

    def lines(self, path: str) -> Iterator[tuple[int, str]]:
        """Number and text of every line that is not blank.

        Raises:
            Refusal: the file is not text.
        """
        with self._text(path) as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")

    def rows(self, path: str, fields: int, separator: str | None = None) -> Iterator[tuple[str, list[str]]]:
        """`file:line` and the fields of every line; the last field takes the rest of its line.

        Raises:
            Refusal: a line has fewer fields.
        """
        for number, line in self.lines(path):
            values = [field.strip() for field in line.split(separator, fields - 1)]
            if len(values) < fields:
                raise Refusal(f"{path}:{number}: {brief(line)} has {len(values)} fields; {fields} are expected")
            yield f"{path}:{number}", values

    def header(self, path: str, *columns: str) -> tuple[str, list[str]]:
        """The separator of a CSV file and the names of its columns, in lower case; the separator is one that gives it `columns`, if any does."""
        with self._text(path, newline="") as text:
            return csv_rows.header(path, list(islice(text, csv_rows.HEAD)), columns)

    def table(self, path: str, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
        """`file:line` and the fields of every row of a CSV file, by column name in lower case.

        Raises:
            Refusal: the first line lacks one of `columns`, or a row has another number of fields.
        """
        separator, names = self.header(path, *columns)
        missing = [column for column in columns if column not in names]
        if missing:
            raise Refusal(f"{path}:1: there is no column {missing[0]!r}; the columns are {', '.join(names)}")
        with self._text(path, newline="") as text:
            rows = csv_rows.fields(path, text, separator)
            next(rows)
            for line, row in rows:
                if len(row) < len(names) or any(row[len(names) :]):
                    raise Refusal(f"{path}:{line}: the row has {len(row)} fields; the first line names {len(names)}")
                yield f"{path}:{line}", dict(zip(names, row, strict=False))


def numbers(texts: list[str], where: str) -> list[float]:
    """Finite numbers.

    Raises:
        Refusal: naming the file and line.
    """
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise Refusal(f"{where}: {brief(' '.join(texts))} are not numbers") from error
    if not all(abs(number) < 1e12 for number in values):
        raise Refusal(f"{where}: {brief(' '.join(texts))} are not finite numbers")
    return values


def whole(text: str, where: str) -> int:
    """A whole number.

    Raises:
        Refusal: naming the file and line.
    """
    if not (text.removeprefix("-").isdecimal() and len(text) < 19):
        raise Refusal(f"{where}: {brief(text)} is not a whole number")
    return int(text)


def same_keys(expected: dict, rows: dict, what: str, source: str, path: str) -> None:
    """Both name the same images.

    Raises:
        Refusal: one names an image that the other does not.
    """
    lacking = next((key for key in expected if key not in rows), None)
    if lacking is not None:
        raise Refusal(f"{path} has {len(rows)} lines and {source} {len(expected)}: {what} {lacking} of {source} has none")
    stray = next((key for key in rows if key not in expected), None)
    if stray is not None:
        raise Refusal(f"{path} has {len(rows)} lines and {source} {len(expected)}: there is no {what} {stray} in {source}")


def brief(text: str) -> str:
    text = ascii(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _stamp(info: dict) -> str:
    return storage.etag(info) or str(info.get("mtime") or info.get("LastModified") or info.get("created"))


def _is_litter(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
