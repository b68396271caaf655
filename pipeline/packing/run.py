"""A pack job from start to end: recognise, look everything over, write what is missing, sum up."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pipeline import layouts, storage
from pipeline.layouts import SPLITS, Dataset, Record, Tree
from pipeline.packing.job import Pack
from pipeline.packing.sample import Item
from pipeline.packing.shard import Receipt, Task, fingerprint, receipt_url, write_shard
from pipeline.progress import Progress
from pipeline.refusal import Refusal
from pipeline.tables import files

log = logging.getLogger(__name__)
AT_ONCE = 64  # shards that are planned and handed out together
FEW = 3  # of a list of bad things, named in a refusal


@dataclass
class Survey:
    """What a first look at every record tells, before anything is written."""

    counts: dict[str, Counter] = field(default_factory=dict)  # split -> label -> images
    problems: list[str] = field(default_factory=list)

    def images(self, splits: Sequence[str]) -> int:
        return sum(self.counts[split].total() for split in splits)


def pack(job: Pack, each: Callable = map) -> dict:
    """Write the shards; returns what pack.json says. `each` maps a function over items, here or on Ray, in any order.

    Raises:
        Refusal: the root is in no known layout, its tables contradict each other or its images, or `out` holds another dataset.
    """
    tree = Tree.of(job.root)
    layout = layouts.find(tree) if job.layout == "auto" else layouts.named(job.layout)
    level = layouts.level_of(layout, job.level)
    dataset = layouts.LAYOUTS[layout].dataset(tree, level)
    _refuse_names(dataset.classes, job.root)
    survey = _survey(tree, dataset)
    splits = _splits(survey, job)
    _refuse_problems(survey.problems, job)
    files.writable(job.out)
    head = {"layout": layout, "level": level, "classes": len(dataset.classes), "resize": job.resize}
    known = _known(job.out, head)
    log.info("layout %s: %d images of %d classes in %s", layout, survey.images(splits), len(dataset.classes), " ".join(splits))
    _tables(job.out, dataset)
    receipts = _write(job, tree, layout, dataset, survey, splits, known, each)
    return _finish(job, head, dataset, survey, splits, known, receipts)


def _refuse_names(classes: Sequence[str], root: str) -> None:
    """A class name stands on a line of its own and means one class."""
    for name, times in Counter(classes).items():
        if times > 1 or not name.strip() or not name.isprintable():
            raise Refusal(f"{root}: the class name {name!a} " + ("comes more than once" if times > 1 else "is empty or cannot be printed"))


def _survey(tree: Tree, dataset: Dataset) -> Survey:
    survey, seen = Survey(), set()
    for record in dataset.records():
        digest = hashlib.blake2b(record.image.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        if digest in seen:
            raise Refusal(f"{record.where}: {record.image} comes a second time")
        seen.add(digest)
        lost = _lost(record, tree)
        if lost:
            survey.problems.append(f"{lost} ({record.where}) is missing")
        else:
            survey.counts.setdefault(record.split, Counter())[record.label] += 1
    trained = survey.counts.get("train")
    untrained = sorted({label for counts in survey.counts.values() for label in counts} - set(trained)) if trained else []
    survey.problems += [f"class {dataset.classes[label]} has images and none for training" for label in untrained]
    if not survey.counts:
        raise Refusal(f"{tree.root} holds none of the images its tables name: {'; '.join(survey.problems[:1]) or 'they name none'}")
    return survey


def _lost(record: Record, tree: Tree) -> str | None:
    """The first of the record's files that is not there."""
    return next((path for path in record.paths if path not in tree), None)


def _splits(survey: Survey, job: Pack) -> list[str]:
    unknown = [split for split in job.split if split not in survey.counts]
    if unknown:
        raise Refusal(f"--split {unknown[0]}: {job.root} has no such split; it has {' '.join(s for s in SPLITS if s in survey.counts)}")
    return [split for split in SPLITS if split in survey.counts and (not job.split or split in job.split)]


def _refuse_problems(problems: Sequence[str], job: Pack) -> None:
    if problems and not job.skip_missing:
        more = f", and {len(problems) - FEW} more" if len(problems) > FEW else ""
        raise Refusal(f"{len(problems)} problems: {'; '.join(problems[:FEW])}{more}; --skip-missing goes on without them")


def _known(out: str, head: dict) -> dict[str, Receipt]:
    """Receipts of shards that are there.

    Raises:
        Refusal: they are another dataset's.
    """
    try:
        before = json.loads(storage.read_bytes(storage.join(out, "pack.json")))
    except FileNotFoundError:
        before = head
    changed = [name for name in head if before.get(name) != head[name]]
    if changed:
        told = ", ".join(f"{name} {before.get(name)} and not {head[name]}" for name in changed)
        raise Refusal(f"--out {out} holds another dataset ({told}); name another place, or remove what is there")
    fs, path = storage.filesystem(out)
    sizes = {info["name"].rpartition("/")[2]: info["size"] for info in fs.ls(path, detail=True)} if fs.isdir(path) else {}
    names = [name for name in sizes if re.fullmatch(rf"({'|'.join(SPLITS)})-\d{{5,}}\.tar", name)]
    found = storage.read_many([receipt_url(out, name) for name in names]) if names else []
    receipts = [Receipt.from_json(content) for content in found if isinstance(content, bytes)]
    return {receipt.name: receipt for receipt in receipts if sizes[receipt.name] == receipt.bytes}


def _tables(out: str, dataset: Dataset) -> None:
    if dataset.classes:
        files.write_bytes(storage.join(out, "classes.txt"), "".join(f"{name}\n" for name in dataset.classes).encode())
    if dataset.attributes:
        names, values = dataset.attributes
        content = {"attributes": list(names), "values": [[round(value, 12) for value in row] for row in values]}
        files.write_bytes(storage.join(out, "attributes.json"), json.dumps(content).encode())


def _write(job, tree, layout, dataset, survey, splits, known, each) -> dict[str, Receipt]:
    """Receipts of all shards of these splits; those whose inputs did not change are left as they are."""
    progress, receipts = Progress("pack", survey.images(splits), "images"), {}
    planned = _tasks(job, tree, layout, dataset, splits)
    while tasks := list(islice(planned, AT_ONCE)):
        todo, problems = [], []
        for task in tasks:
            if task.name in known and known[task.name].inputs == task.inputs:
                receipts[task.name] = known[task.name]
                progress.add(len(task.items))
            else:
                todo.append(task)
        if todo:
            _unpublish(job.out)
        sizes = {task.name: len(task.items) for task in todo}
        for receipt in each(write_shard, todo) if todo else ():
            if receipt.refused:
                raise Refusal(receipt.refused)
            receipts[receipt.name] = receipt
            problems += receipt.problems
            progress.add(sizes[receipt.name], len(receipt.problems))
        _refuse_problems(problems, job)
    return dict(sorted(receipts.items()))


def _tasks(job: Pack, tree: Tree, layout: str, dataset: Dataset, splits: Sequence[str]) -> Iterator[Task]:
    """The shards of each split, as soon as one is full."""
    waiting: dict[str, list[Item]] = {split: [] for split in splits}
    shards, keys = Counter(), _Keys()
    for record in dataset.records():
        if _lost(record, tree):
            continue
        key = keys(record.name or record.image)
        if record.split not in waiting:
            continue
        name = None if record.label is None else dataset.classes[record.label]
        waiting[record.split].append(Item(key, name, record))
        if len(waiting[record.split]) == job.images_per_shard:
            yield _task(job, tree, layout, record.split, shards, waiting[record.split])
            waiting[record.split] = []
    for split, items in waiting.items():
        if items:
            yield _task(job, tree, layout, split, shards, items)


def _task(job: Pack, tree: Tree, layout: str, split: str, shards: Counter, items: list[Item]) -> Task:
    name = f"{split}-{shards[split]:05}.tar"
    shards[split] += 1
    stamps = [[tree.files[path] for path in item.record.paths] for item in items]
    inputs = fingerprint(items, stamps, layout, job.resize)
    return Task(name, tree.root, job.out, layout, split, tuple(items), job.resize, job.skip_missing, inputs)


class _Keys:
    """Keys from paths: one each, the same every time."""

    def __init__(self):
        self.taken: set[bytes] = set()

    def __call__(self, path: str) -> str:
        stem = path.rpartition(".")[0] if "." in path.rpartition("/")[2] else path
        key = re.sub(r"[^\w\- ()+,@]", "_", stem.replace("/", "__"))
        if _short(key) in self.taken or len(key) > 200:
            key = f"{key[:200]}-{_short(path).hex()}"
        self.taken.add(_short(key))
        return key


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _unpublish(out: str) -> None:
    """What pack.json says no longer holds once a shard is replaced."""
    fs, path = storage.filesystem(storage.join(out, "pack.json"))
    if fs.exists(path):
        fs.rm_file(path)


def _finish(job: Pack, head: dict, dataset: Dataset, survey: Survey, splits, known, receipts) -> dict:
    """Remove shards that are no longer of these splits, and write pack.json, which names all that are."""
    written = {name for name, receipt in receipts.items() if receipt.images}
    stale = [name for name, receipt in known.items() if receipt.split in splits and name not in written]
    for name in stale:
        _unpublish(job.out)
        for url in (storage.join(job.out, name), receipt_url(job.out, name)):
            fs, path = storage.filesystem(url)
            fs.rm_file(path)
    kept = {name: receipt for name, receipt in known.items() if receipt.split not in splits}
    all_of_them = [receipt for _, receipt in sorted((kept | receipts).items())]
    shards = [receipt for receipt in all_of_them if receipt.images]
    labels = {label for counts in survey.counts.values() for label in counts}
    content = head | {
        "images": sum(receipt.images for receipt in shards),
        "splits": {split: _sums([receipt for receipt in shards if receipt.split == split]) for split in SPLITS},
        "empty_classes": [name for label, name in enumerate(dataset.classes) if label not in labels],
        "shards": [
            {"name": receipt.name, "split": receipt.split, "images": receipt.images, "bytes": receipt.bytes, "sha256": receipt.sha256}
            for receipt in shards
        ],
        "problems": survey.problems + [problem for receipt in all_of_them for problem in receipt.problems],
    }
    content["splits"] = {split: sums for split, sums in content["splits"].items() if sums["shards"]}
    files.write_json(storage.join(job.out, "pack.json"), content)
    return content


def _sums(receipts: Sequence[Receipt]) -> dict[str, int]:
    return {"images": sum(receipt.images for receipt in receipts), "shards": len(receipts)}
