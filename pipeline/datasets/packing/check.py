"""A pack job is checked before anything is written: the dataset, a survey of its records, and its shards."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.datasets import layouts
from pipeline.datasets.layouts import SPLITS, Dataset, Record, Tree
from pipeline.datasets.packing.job import Pack
from pipeline.datasets.packing.sample import Item
from pipeline.datasets.packing.shard import Task, fingerprint
from pipeline.refusal import Refusal
from pipeline.sources.listing import count_endings
from pipeline.sources.splits import split_of


@dataclass
class Survey:
    """The counts and problems of all records, before anything is written."""

    counts: dict[str, Counter] = field(default_factory=dict)  # split -> label -> images
    problems: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)  # ending -> files that are in no sample

    def images(self, splits: Sequence[str]) -> int:
        return sum(self.counts[split].total() for split in splits)


@dataclass(frozen=True)
class CheckedPack:
    """A job whose dataset was looked over."""

    job: Pack
    tree: Tree
    layout: str
    level: str | None
    dataset: Dataset
    survey: Survey
    splits: tuple[str, ...]  # those to pack

    @property
    def head(self) -> dict:
        """The facts that tell the dataset apart from another one that was packed to the same place."""
        return {"layout": self.layout, "level": self.level, "classes": len(self.dataset.classes), "resize": self.job.resize}

    @property
    def images(self) -> int:
        return self.survey.images(self.splits)


def check_pack(job: Pack) -> CheckedPack:
    """Recognise the layout and look every record over.

    Raises:
        Refusal: the root is in no known layout, its tables contradict each other, or it has not what is asked for.
    """
    layout, tree = layouts.find(Tree.of(job.root), layouts.named(job.layout))
    level = layouts.level_of(layout, job.level)
    dataset = layouts.LAYOUTS[layout].dataset(tree, level)
    _refuse_names(dataset.classes, job.root)
    survey = _survey_records(tree, dataset)
    return CheckedPack(job, tree, layout, level, dataset, survey, _choose_splits(survey, job))


def _refuse_names(classes: Sequence[str], root: str) -> None:
    """A class name stands on a line of its own and means one class."""
    for name, times in Counter(classes).items():
        if times > 1 or not name.strip() or not name.isprintable():
            raise Refusal(f"{root}: the class name {name!a} " + ("comes more than once" if times > 1 else "is empty or cannot be printed"))


def _survey_records(tree: Tree, dataset: Dataset) -> Survey:
    survey, digests = Survey(), set()
    taken: set[str] = set()
    for record in dataset.records():
        digest = hashlib.blake2b(record.image.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        if digest in digests:
            raise Refusal(f"{record.where}: {record.image} comes a second time")
        digests.add(digest)
        taken.update(path for path in record.paths if path in tree)
        path = _first_missing(record, tree)
        if path:
            survey.problems.append(f"{path} ({record.where}) is missing")
        else:
            survey.counts.setdefault(record.split, Counter())[record.label] += 1
    survey.left_out = count_endings(path for path in tree.files if path not in taken)
    trained = survey.counts.get("train")
    untrained = sorted({label for counts in survey.counts.values() for label in counts} - set(trained)) if trained else []
    survey.problems += [f"class {dataset.classes[label]} has images and none for training" for label in untrained]
    if not survey.counts:
        raise Refusal(f"{tree.root} holds none of the images its tables name: {'; '.join(survey.problems[:1]) or 'they name none'}")
    return survey


def _first_missing(record: Record, tree: Tree) -> str | None:
    """The first of the record's files that is not there."""
    return next((path for path in record.paths if path not in tree), None)


def _choose_splits(survey: Survey, job: Pack) -> tuple[str, ...]:
    asked = [split_of(split) or split for split in job.split]
    unknown = [split for split in asked if split not in survey.counts]
    if unknown:
        raise Refusal(f"--split {unknown[0]}: {job.root} has no such split; it has {' '.join(s for s in SPLITS if s in survey.counts)}")
    return tuple(split for split in SPLITS if split in survey.counts and (not asked or split in asked))


def tasks(checked: CheckedPack) -> Iterator[Task]:
    """The shards of each split, as soon as one is full."""
    waiting: dict[str, list[Item]] = {split: [] for split in checked.splits}
    shards: Counter[str] = Counter()
    keys = Keys()
    for record in checked.dataset.records():
        if _first_missing(record, checked.tree):
            continue
        key = keys(record.name or record.image)  # of every split: a key does not depend on which of them are packed
        if record.split not in waiting:
            continue
        name = None if record.label is None else checked.dataset.classes[record.label]
        waiting[record.split].append(Item(key, name, record))
        if len(waiting[record.split]) == checked.job.images_per_shard:
            yield _task_of(checked, record.split, shards, waiting[record.split])
            waiting[record.split] = []
    for split, items in waiting.items():
        if items:
            yield _task_of(checked, split, shards, items)


def _task_of(checked: CheckedPack, split: str, shards: Counter, items: list[Item]) -> Task:
    name = f"{split}-{shards[split]:05}.tar"
    shards[split] += 1
    stamps = [[checked.tree.files[path] for path in item.record.paths] for item in items]
    inputs = fingerprint(items, stamps, checked.layout, checked.job.resize)
    job = checked.job
    return Task(name, checked.tree.root, job.out, checked.layout, split, tuple(items), job.resize, job.skip_missing, inputs)


class Keys:
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
