"""The members of a tar, read front to back exactly once. Whoever wrote the tar may be hostile.

`tarfile` decodes the headers; its own reader is not used, because it takes a damaged or cut header for the end of
the archive, follows sizes that lead backwards or past the end, and parses extended headers in quadratic time.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.sources.shard import SourceError

BLOCK = 512
PIECE = 4 << 20  # bytes read at a time: a size is believed no further than the bytes that come
EXTENDED_LIMIT = 1 << 20  # bytes of one extended header
EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Ended(SourceError):
    """The tar ends here, though not with an end-of-archive mark."""


class Trailing(Ended):
    """The tar has its end-of-archive mark, and goes on behind it."""


@dataclass(frozen=True)
class Member:
    offset: int  # of its first header, in bytes from the start of the tar
    name: str
    size: int
    is_file: bool  # not a link, a device or a sparse file


class Tape:
    """A tar as a stream that only moves forward, hashed on the way if asked."""

    def __init__(self, handle, hashed: bool = False, start: int = 0):
        self.handle, self.position = handle, start
        self.digest = hashlib.sha256() if hashed else None
        self.unread = 0  # bytes of the current member and its padding that were not read yet
        if start:
            handle.seek(start)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end of the file."""
        pieces = []
        while size > 0 and (piece := self.handle.read(min(size, PIECE))):
            self.position += len(piece)
            size -= len(piece)
            if self.digest:
                self.digest.update(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def content(self, member: Member) -> bytes:
        """The current member's bytes.

        Raises:
            Ended: the file is over before them.
        """
        data = self.read(member.size)
        self.unread -= len(data)
        if len(data) < member.size:
            raise Ended("TruncatedShard", f"the tar is cut at byte {self.position:,}, inside {member.name!a}")
        return data

    def skip(self) -> None:
        """Pass what is left of the current member."""
        while self.unread > 0:
            passed = len(self.read(min(self.unread, PIECE)))
            if not passed:
                raise Ended("TruncatedShard", f"the tar is cut at byte {self.position:,}")
            self.unread -= passed

    def drain(self) -> bool:
        """Read to the end of the file; whether all of it is zeros."""
        blank = True
        while piece := self.read(PIECE):
            blank = blank and piece.count(0) == len(piece)
        return blank


def members(tape: Tape) -> Iterator[Member]:
    """Yield the members; between two steps the caller may take `tape.content(member)`.

    Raises:
        Ended: the tar is cut, damaged from here on, or goes on behind its end mark.
    """
    extended: dict[str, str] = {}
    first = None  # where the next member's headers start; extended ones come before its own
    while True:
        tape.skip()
        offset = tape.position
        first = offset if first is None else first
        header = _header(tape)
        if header is None:
            return
        if header.type in EXTENSIONS:
            extended |= _extension(tape, header, offset)
            continue
        size = _size(extended.get("size", header.size), offset)
        tape.unread = _pad(size) if header.isreg() or header.type not in tarfile.SUPPORTED_TYPES else 0
        if not header.isdir():
            is_file = header.type in PLAIN and not any(field.startswith("GNU.sparse") for field in extended)
            yield Member(first, extended.get("path", header.name), size, is_file)
        extended, first = {}, None


def _header(tape: Tape) -> tarfile.TarInfo | None:
    """The header at this place, None at the end-of-archive mark."""
    offset = tape.position
    block = tape.read(BLOCK)
    if len(block) < BLOCK:
        raise Ended("TruncatedShard", f"the tar is cut at byte {tape.position:,}: it has no end-of-archive mark")
    if block.count(0) == BLOCK:
        if not tape.drain():
            raise Trailing("DamagedShard", f"what follows the end-of-archive mark at byte {offset:,} is not read; were tars concatenated?")
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise Ended("DamagedShard", f"there is no tar header at byte {offset:,}: {error}") from error
    holes = header.type == tarfile.GNUTYPE_SPARSE and block[482]  # a list of holes may go on in blocks of its own
    while holes:
        block = tape.read(BLOCK)
        if len(block) < BLOCK:
            raise Ended("TruncatedShard", f"the tar is cut at byte {tape.position:,}, inside a header")
        holes = block[504]
    return header


def _extension(tape: Tape, header: tarfile.TarInfo, offset: int) -> dict[str, str]:
    """The next member's name and size by its extended header."""
    size = _size(header.size, offset)
    if size > EXTENDED_LIMIT:
        raise Ended("DamagedShard", f"the extended header at byte {offset:,} claims {size:,} bytes")
    tape.unread = _pad(size)
    content = tape.content(Member(offset, "an extended header", size, False))
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.split(b"\0")[0].decode("utf-8", "surrogateescape")}
    if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        return _records(content)
    return {}  # a long link name, or something said of all members: neither name nor size


def _records(content: bytes) -> dict[str, str]:
    """The records `length name=value` of a pax header."""
    fields = {}
    position = 0
    while (space := content.find(b" ", position, position + 8)) > 0 and content[position:space].isdigit():
        end = position + int(content[position:space])
        if end <= space:
            break
        name, _, value = content[space + 1 : end].removesuffix(b"\n").partition(b"=")
        if name in (b"path", b"size") or name.startswith(b"GNU.sparse"):
            fields[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position = end
    return fields


def _size(claimed: int | str, offset: int) -> int:
    text = str(claimed)
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Ended("DamagedShard", f"the header at byte {offset:,} claims {text[:20]!a} bytes")
    return int(text)


def _pad(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
