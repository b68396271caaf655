"""One shard: a tar of samples that is seen whole or not at all, and whose bytes the same records decide."""

import builtins
import hashlib
import json
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from pipeline import storage
from pipeline.datasets.packing.sample import Item, Unpackable, members
from pipeline.refusal import Refusal, one_line
from pipeline.tables import files

VERSION = 1  # of what a shard holds; raised where the same records would come to other bytes
AT_ONCE = 32  # images asked of the store side by side
EIGHT_BITS = {"jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp"}  # endings of images that hold no wider numbers


@dataclass(frozen=True)
class Task:
    """One shard to write. `inputs` is a hash of everything that decides its bytes."""

    name: str
    root: str
    out: str
    layout: str
    split: str
    items: tuple[Item, ...]
    resize: int | None
    skip_bad: bool
    inputs: str


@dataclass(frozen=True)
class Receipt:
    """The result of a task: a shard, or with `problems` and without `skip_bad` nothing."""

    name: str
    split: str
    inputs: str
    images: int = 0
    bytes: int = 0
    sha256: str = ""
    problems: tuple[str, ...] = ()
    refused: str = ""

    @classmethod
    def from_json(cls, text: builtins.bytes) -> "Receipt":
        fields = json.loads(text)
        return cls(**{**fields, "problems": tuple(fields["problems"])})


def fingerprint(items: Sequence[Item], stamps: Sequence, layout: str, resize: int | None) -> str:
    """A hash of records, of the size and age of their files, and of what is made of them."""
    described = [[item.key, item.label_name, asdict(item.record)] for item in items]
    wide = resize and any(item.record.image.rpartition(".")[2].lower() not in EIGHT_BITS for item in items)
    # what is wider than 8 bits came to other bytes once; which images are, only their headers say
    content = json.dumps([VERSION, layout, resize, described, stamps, *(["16 bits"] if wide else [])], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def receipt_url(out: str, name: str) -> str:
    return storage.join(out, ".pack", f"{name}.json")


def write_shard(task: Task) -> Receipt:
    """Write a shard and its receipt. Bad input comes back in the receipt, for an exception would lose its kind on the way."""
    problems: list[str] = []
    draft = _create_draft(task)
    try:
        try:
            images = _fill(draft, task, problems)
        except Refusal as refusal:
            return Receipt(task.name, task.split, task.inputs, refused=str(refusal))
        if not images or (problems and not task.skip_bad):
            return Receipt(task.name, task.split, task.inputs, problems=tuple(problems))
        with draft.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        receipt = Receipt(task.name, task.split, task.inputs, images, draft.stat().st_size, sha256, tuple(problems))
        _land(draft, storage.join(task.out, task.name))
        files.write_json(receipt_url(task.out, task.name), asdict(receipt))
        return receipt
    finally:
        draft.unlink(missing_ok=True)


def _create_draft(task: Task) -> Path:
    """An empty file beside the goal, or in the machine's own place for such where the goal is remote."""
    folder = None
    if storage.is_local(task.out):
        folder = Path(storage.filesystem(task.out)[1])
        folder.mkdir(parents=True, exist_ok=True)
    handle, path = tempfile.mkstemp(prefix=f".{task.name}.", dir=folder)
    os.close(handle)
    return Path(path)


def _fill(draft: Path, task: Task, problems: list[str]) -> int:
    """Write the samples; returns how many there are."""
    import webdataset

    images = 0
    with draft.open("wb") as file, webdataset.TarWriter(file, mtime=0, user="", group="") as tar:
        for item, contents in _read_contents(task):
            try:
                sample = members(item, task.layout, _refuse_errors(item, contents), task.resize)
            except Unpackable as problem:
                problems.append(f"{item.record.image} ({item.record.where}) {problem}")
                continue
            tar.write({"__key__": item.key, **sample})
            images += 1
    return images


def _read_contents(task: Task) -> Iterator[tuple[Item, list[bytes | Exception]]]:
    """Every item with the contents of its image and other files, a few items at a time."""
    items = iter(task.items)
    while batch := list(islice(items, AT_ONCE)):
        paths = [item.record.paths for item in batch]
        contents = deque(storage.read_many([storage.join(task.root, path) for item_paths in paths for path in item_paths]))
        for item, item_paths in zip(batch, paths, strict=True):
            yield item, [contents.popleft() for _ in item_paths]  # what is packed is not held


def _refuse_errors(item: Item, contents: list[bytes | Exception]) -> list[bytes]:
    sound = []
    for path, content in zip(item.record.paths, contents, strict=True):
        if isinstance(content, Exception):
            raise Unpackable(f"cannot be read: {path}: {one_line(content, 100)}")
        sound.append(content)
    return sound


def _land(draft: Path, url: str) -> None:
    fs, path = storage.filesystem(url)
    if storage.is_local(url):
        draft.chmod(0o666 & ~_umask())
        draft.replace(path)
    else:
        fs.put_file(str(draft), path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
