"""A pack job from start to end: recognise, look everything over, write what is missing, sum up."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from pipeline import storage
from pipeline.classes import pairs
from pipeline.datasets.layouts import SPLITS, Dataset
from pipeline.datasets.packing.check import CheckedPack, check_pack, tasks
from pipeline.datasets.packing.job import Pack
from pipeline.datasets.packing.shard import Receipt, Task, receipt_url, write_shard
from pipeline.monitor.monitor import Monitor
from pipeline.refusal import Refusal, counted
from pipeline.sources.listing import in_words
from pipeline.tables import files

AT_ONCE = 64  # shards that are planned and handed out together
FEW = 3  # of a list of bad things, named in a refusal


def pack(job: Pack, apply: Callable = map) -> dict:
    """Write the shards; returns the content of pack.json. `apply` maps a function over items, here or on Ray, in any order.

    Raises:
        Refusal: the root is in no known layout, its tables contradict each other or its images, or `out` holds another dataset.
    """
    checked = check_pack(job)
    _refuse_problems(checked.survey.problems, job)
    files.check_writable(job.out)
    earlier = _load_receipts(job.out, checked.head)
    monitor, classes = Monitor(job.log), len(checked.dataset.classes)
    left_out = checked.survey.left_out
    monitor.record("planned", layout=checked.layout, images=checked.images, classes=classes, splits=checked.splits, left_out=left_out)
    others = f"; files in no sample: {in_words(left_out)}" if left_out else ""
    monitor.show(
        f"{checked.layout}: {counted(checked.images, 'images')} of {counted(classes, 'classes')} in {' '.join(checked.splits)}{others}"
    )
    _write_tables(job.out, checked.dataset)
    with monitor.stage("pack", checked.images, "images"):
        receipts = _write_shards(checked, earlier, apply, monitor)
    return _finish(checked, earlier, receipts)


def _refuse_problems(problems: Sequence[str], job: Pack) -> None:
    if problems and not job.skip_missing:
        more = f", and {len(problems) - FEW} more" if len(problems) > FEW else ""
        raise Refusal(f"{counted(len(problems), 'problems')}: {'; '.join(problems[:FEW])}{more}; --skip-missing goes on without them")


def _load_receipts(out: str, head: dict) -> dict[str, Receipt]:
    """Receipts of shards that are there.

    Raises:
        Refusal: they are another dataset's.
    """
    try:
        published = json.loads(storage.read_bytes(storage.join(out, "pack.json")))
    except FileNotFoundError:
        published = head
    changed = [name for name in head if published.get(name) != head[name]]
    if changed:
        differences = ", ".join(f"{name} {published.get(name)} and not {head[name]}" for name in changed)
        raise Refusal(f"--out {out} holds another dataset ({differences}); name another place, or remove what is there")
    fs, path = storage.filesystem(out)
    sizes = {info["name"].rpartition("/")[2]: info["size"] for info in fs.ls(path, detail=True)} if fs.isdir(path) else {}
    names = [name for name in sizes if re.fullmatch(rf"({'|'.join(SPLITS)})-\d{{5,}}\.tar", name)]
    contents = storage.read_many([receipt_url(out, name) for name in names]) if names else []
    receipts = [Receipt.from_json(content) for content in contents if isinstance(content, bytes)]
    return {receipt.name: receipt for receipt in receipts if sizes[receipt.name] == receipt.bytes}


def _write_tables(out: str, dataset: Dataset) -> None:
    if dataset.classes:
        files.write_bytes(storage.join(out, "classes.txt"), "".join(f"{name}\n" for name in dataset.classes).encode())
    if dataset.attributes:
        names, values = dataset.attributes
        content = {"attributes": list(names), "values": [[round(value, 12) for value in row] for row in values]}
        files.write_bytes(storage.join(out, "attributes.json"), json.dumps(content).encode())
        pairs.write(storage.join(out, "pairs.json"), pairs.pairs_of_attributes(names, np.array(values)))


def _write_shards(checked: CheckedPack, earlier: dict[str, Receipt], apply: Callable, monitor: Monitor) -> dict[str, Receipt]:
    """Receipts of all shards of these splits; those whose inputs did not change are left as they are."""
    receipts: dict[str, Receipt] = {}
    shard_tasks = tasks(checked)
    while batch := list(islice(shard_tasks, AT_ONCE)):
        open_tasks: list[Task] = []
        problems: list[str] = []
        for task in batch:
            if task.name in earlier and earlier[task.name].inputs == task.inputs:
                receipts[task.name] = earlier[task.name]
                problems += earlier[task.name].problems
                monitor.add(len(task.items))
            else:
                open_tasks.append(task)
        if open_tasks:
            _unpublish(checked.job.out)
        sizes = {task.name: len(task.items) for task in open_tasks}
        for receipt in apply(write_shard, open_tasks) if open_tasks else ():
            if receipt.refused:
                raise Refusal(receipt.refused)
            receipts[receipt.name] = receipt
            problems += receipt.problems
            monitor.add(sizes[receipt.name], len(receipt.problems))
        _refuse_problems(problems, checked.job)
    return dict(sorted(receipts.items()))


def _unpublish(out: str) -> None:
    """Remove pack.json, which no longer holds once a shard is replaced."""
    fs, path = storage.filesystem(storage.join(out, "pack.json"))
    if fs.exists(path):
        fs.rm_file(path)


def _finish(checked: CheckedPack, earlier: dict[str, Receipt], receipts: dict[str, Receipt]) -> dict:
    """Remove shards that are no longer of these splits, and write pack.json, which names all that are."""
    written = {name for name, receipt in receipts.items() if receipt.images}
    stale = [name for name, receipt in earlier.items() if receipt.split in checked.splits and name not in written]
    for name in stale:
        _unpublish(checked.job.out)
        for url in (storage.join(checked.job.out, name), receipt_url(checked.job.out, name)):
            fs, path = storage.filesystem(url)
            fs.rm_file(path)
    other_splits = {name: receipt for name, receipt in earlier.items() if receipt.split not in checked.splits}
    all_receipts = [receipt for _, receipt in sorted((other_splits | receipts).items())]
    shards = [receipt for receipt in all_receipts if receipt.images]
    labels = {label for counts in checked.survey.counts.values() for label in counts}
    content = checked.head | {
        "images": sum(receipt.images for receipt in shards),
        "splits": {split: _count([receipt for receipt in shards if receipt.split == split]) for split in SPLITS},
        "empty_classes": [name for label, name in enumerate(checked.dataset.classes) if label not in labels],
        "shards": [
            {"name": receipt.name, "split": receipt.split, "images": receipt.images, "bytes": receipt.bytes, "sha256": receipt.sha256}
            for receipt in shards
        ],
        "left_out": checked.survey.left_out,
        "problems": checked.survey.problems + [problem for receipt in all_receipts for problem in receipt.problems],
    }
    content["splits"] = {split: sums for split, sums in content["splits"].items() if sums["shards"]}
    files.write_json(storage.join(checked.job.out, "pack.json"), content)
    return content


def _count(receipts: Sequence[Receipt]) -> dict[str, int]:
    return {"images": sum(receipt.images for receipt in receipts), "shards": len(receipts)}
