"""WebDataset tars: members that stand side by side and share a key are one sample.

The key is the member's path up to the first dot of its last part. A key that comes again later, and an ending that
comes again within a sample, start a duplicate, which has a position and no image.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from pipeline.sources.sample import UNSAFE, Problems, sample_of, unsafe
from pipeline.sources.shard import MEMBER_LIMIT, Found, Index, Kind, Sample, Shard, ShardError, open_listed
from pipeline.sources.tape import Ended, Member, Tape, Trailing, members

MARK_EVERY = 100  # samples


def shards(files: Sequence[Found]) -> list[Shard]:
    return [Shard("webdataset", file.name, (file.url,), file.size, file.etag) for file in files]


def split(name: str) -> tuple[str | None, str]:
    """Key and lower-case ending of a member; no key where it belongs to no sample (hidden files, no dot, WebDataset's own notes)."""
    name = name.removeprefix("./")
    match = re.match(r"((?:.*/)?[^./][^./]*)\.([^/]*)\Z", name, re.DOTALL)
    if not match or re.match(r"__[^/]*__(/|$)", name):
        return None, ""
    ending = match[2].lower()
    return match[1], ending if ending.isprintable() else unsafe(ending)[1]


class Group:
    """The members of one sample while they pass by."""

    def __init__(self, key: str, position: int, offset: int, wanted: bool):
        self.key, self.position, self.offset, self.wanted = key, position, offset, wanted
        self.endings: set[str] = set()
        self.contents: dict[str, bytes] = {}
        self.problems: Problems = []

    def take(self, ending: str, member: Member, tape: Tape) -> None:
        self.endings.add(ending)
        if not self.wanted:
            return
        if not member.is_file:
            self.problems.append(("NotAFile", f"{ending!a} is a link, a device or a sparse file; it is not followed"))
        elif ending.rpartition(".")[2] in UNSAFE:
            self.problems.append(("UnsafeMember", f"{ending!a} can run code when it is loaded; it is not read"))
        elif member.size > MEMBER_LIMIT - sum(map(len, self.contents.values())):
            self.problems.append(("MemberTooLarge", f"{ending!a} claims {member.size:,} bytes; a sample has at most {MEMBER_LIMIT:,}"))
        else:
            self.contents[ending] = tape.content(member)

    def sample(self, repeated: bool) -> Sample:
        reason, printable = unsafe(self.key)
        if reason:
            return Sample(printable, problems=(("UnsafeKey", reason), *self.problems))
        if repeated:
            return Sample(self.key, problems=(("DuplicateKey", "an earlier sample of this shard has the key; this one is left out"),))
        return sample_of(self.key, self.contents, self.problems)


def groups(tape: Tape, position: int, start: int, last: int | None) -> Iterator[Group]:
    """Yield every group from the tape's place on; those before `start` without their content.

    The last one before a cut may lack members that came behind it. It counts as whole if it has what the one before
    it has, or if it is known to be the `last` that does.

    Raises:
        Ended: behind the last whole group.
    """
    group, before, ended = None, None, None
    try:
        for member in members(tape):
            key, ending = split(member.name)
            if key is None:
                continue
            if group is None or key != group.key or ending in group.endings:
                if group:
                    yield group
                    position += 1
                group, before = Group(key, position, member.offset, position >= start), group
            try:
                group.take(ending, member, tape)
            except Ended:
                group = None  # the cut goes through it
                raise
    except Ended as error:
        ended = error
    if group and (not ended or _is_whole(group, before, ended, last)):
        yield group
    if ended:
        raise ended


def _is_whole(group: Group, before: Group | None, ended: Ended, last: int | None) -> bool:
    has_the_same = before is not None and group.endings >= before.endings
    return isinstance(ended, Trailing) or group.position == last or has_the_same


def index(shard: Shard) -> Index:
    count, labelled, marks, keys, duplicates, problems = 0, 0, [], set(), [], []
    splits: set[str] = set()
    labels: Counter[int | str] = Counter()
    restated = False
    with open_listed(shard) as handle:
        tape = Tape(handle, hashed=shard.etag is None)
        try:
            for group in groups(tape, 0, 0, last=None):
                if group.key in keys:
                    duplicates.append(group.position)
                if count % MARK_EVERY == 0:
                    marks.append((group.position, group.offset))
                sample = group.sample(group.key in keys)
                labelled += sample.label is not None
                labels.update([] if sample.label is None else [sample.label])
                splits.update(filter(None, [sample.split]))
                restated |= sample.restated
                keys.add(group.key)
                count += 1
        except Ended as ended:
            problems.append(_problem(shard, ended, tape, count))
        tape.drain()
    if tape.position < shard.size:
        cause = ConnectionError("the answer was cut")
        raise ShardError("ShortRead", f"the store gave {tape.position:,} of {shard.size:,} bytes") from cause
    if not count and not problems:
        problems.append(shard.problem("EmptyShard", "the tar holds no samples"))
    identity, facts = shard.identity(tape.digest.hexdigest() if tape.digest else None, restated), (tuple(problems), tuple(marks))
    return Index(identity, count, labelled, *facts, tuple(duplicates), tuple(sorted(splits)), tuple(labels.items()))


def _problem(shard: Shard, ended: Ended, tape: Tape, count: int):
    if count:
        return shard.problem(ended.error, f"{ended.message}; {count:,} whole samples come before")
    if tape.position == 0:
        return shard.problem("EmptyShard", "the file has no bytes")
    if ended.error == "TruncatedShard":
        return shard.problem(ended.error, f"{ended.message}; no whole sample comes before")
    return shard.problem("UnreadableShard", f"this is no tar: {ended.message}")


def read(shard: Shard, start: int, stop: int | None, index: Index | None) -> Iterator[Sample]:
    position, offset = 0, 0
    if index:
        position, offset = max((mark for mark in index.marks if mark[0] <= start), default=(0, 0))
        stop = index.count if stop is None else min(stop, index.count)
    repeated = set(index.duplicates) if index else None
    last = index.count - 1 if index and index.problems else None
    keys = set()
    with open_listed(shard) as handle:
        groups_of_range = groups(Tape(handle, start=offset), position, start, last)
        try:
            for group in islice(groups_of_range, None if stop is None else max(stop - position, 0)):
                is_repeated = group.key in keys if repeated is None else group.position in repeated
                keys.add(group.key)
                if group.wanted:
                    yield group.sample(is_repeated)
        except Ended:
            return  # `index` told it; whoever asked for more than there is, is told by `sources.read`


KIND = Kind((".tar",), shards, index, read)
