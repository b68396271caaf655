"""The end of a job: what its cells came to is compacted, described in run.json and published."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter

import pyarrow as pa

from pipeline import storage
from pipeline.plan.state import RunState
from pipeline.progress import Progress
from pipeline.reduce import compact as reduce
from pipeline.reduce.corpus import summarise_partials
from pipeline.reduce.curves import curves_of
from pipeline.reduce.manifest import facts_of
from pipeline.reduce.summary import concat_summaries, summarise_files
from pipeline.reduce.weight_similarity import weight_similarity
from pipeline.refusal import Refusal
from pipeline.tables import files, publish, receipts, schema
from pipeline.tables.identity import digest
from pipeline.tables.receipts import TaskOutput
from pipeline.tables.wide import add_partials, without_groups

Groups = list[list[TaskOutput]]


@dataclass(frozen=True)
class PublishResult:
    """How a job ended: the run now published under its name, and the counts its last line tells."""

    run_id: str
    counts: dict
    new: bool

    @property
    def complete(self) -> bool:
        return not self.counts["shards_failed"]


def publish_run(work: RunState, each: Callable) -> PublishResult:
    """Publish the run, unless the one published before it is the same.

    Raises:
        Refusal: where nothing could be explained; what is published stays as it is.
        Overtaken: where another job has published under this name meanwhile.
        TooManyFailed: where more failed than the job allows; the run stays unpublished.
        Damaged: where a task's file is missing or not what was written; nothing is published yet.
    """
    began, job = time.monotonic(), work.checked.job
    studies = ["weight_similarity"] if job.weight_similarity else []
    plan = digest([sorted(member.cell for _, members in work.done for member in members), work.problems, *studies])
    if work.before and work.before["plan"] == plan:
        return PublishResult(work.previous, work.before["counts"], new=False)
    if not work.done:
        raise Refusal(f"no image could be read, so nothing is published; the first reason: {work.problems[0]['message']}")
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{plan[:8]}"
    place = storage.join(job.out, "runs", run_id)
    entries = _tables(work, each, run_id)
    used = {member.receipt.folder: member.receipt for _, members in work.done for member in members}
    files.write_bytes(storage.join(place, "receipts.parquet"), receipts.pack(used.values()))
    run = {"run_id": run_id, "plan": plan, **facts_of(work, entries, time.monotonic() - began)}
    files.write_json(storage.join(place, "run.json"), run)
    _refuse_failed(run_id, run["counts"], job.max_failed)
    publish.flip(job.out, job.name, run_id, work.previous, job.single_writer)
    return PublishResult(run_id, run["counts"], new=True)


def _refuse_failed(run_id: str, counts: dict, max_failed: float) -> None:
    share = max(counts["failed"] / max(1, counts["images"]), counts["shards_failed"] / max(1, counts["shards"]))
    if share > max_failed:
        raise publish.TooManyFailed(
            f"{share:.1%} of the images or shards failed, and --max-failed is {max_failed:.1%}: "
            f"the run is complete as {run_id} and not published; what is published stays as it is"
        )
    if not counts["explained"]:
        raise Refusal(
            f"not one of {counts['images']} images could be explained, so nothing is published; {run_id}/errors below runs/ says why"
        )


def damaged(work: RunState, each: Callable) -> set[str]:
    """Folders of all receipts that this job would publish from, and whose files are missing or not what was written."""
    found = each(partial(reduce.damaged_folders, _context(work)), _groups(work))
    return {folder for folders in found for folder in folders}


def _context(work: RunState) -> reduce.CompactionContext:
    before = {entry["path"]: entry for entry in work.before["files"]} if work.before else {}
    return reduce.CompactionContext(work.checked.job.out, sorted(work.checked.spec.columns), work.previous, before)


def _groups(work: RunState) -> Groups:
    """The answers of all finished tasks, in the groups they are compacted by."""
    starts = reduce.boundaries({task.shard.name for task, _ in work.done})
    groups, last = [], None
    for task, members in work.done:
        if not groups or (task.shard.name in starts and task.shard.name != last):
            groups.append([])
        last = task.shard.name
        groups[-1] += members
    return groups


def _tables(work: RunState, each: Callable, run_id: str) -> list[dict]:
    """Write all tables of a run; returns the entries of their files."""
    groups = _groups(work)
    entries = _compacted(work, groups, each, run_id)
    told = _summarised(work, groups, each, run_id, entries) if work.checked.spec.metrics else {}
    if work.checked.job.weight_similarity:
        curves = weight_similarity(work.checked.backbone)
        told["curves"] = pa.concat_tables([told["curves"], curves]) if told else curves
    name = digest([member.cell for group in groups for member in group])
    for table, rows in told.items():
        path = f"{table}/part-{name}.parquet"
        entries.append(reduce.write(storage.join(work.checked.job.out, "runs", run_id, path), path, table, rows))
    return entries + _filled(work, run_id, entries)


def _compacted(work: RunState, groups: Groups, each: Callable, run_id: str) -> list[dict]:
    """Entries of the files that the groups of tasks are compacted to."""
    progress, entries = Progress("publish", len(groups), "groups"), []
    for more in each(partial(reduce.compact, _context(work), run_id), groups):
        entries += more
        progress.add(1)
    return sorted(entries, key=lambda entry: entry["path"])


def _summarised(work: RunState, groups: Groups, each: Callable, run_id: str, entries: Sequence[dict]) -> dict[str, pa.Table]:
    """`partials`, `summary` and `curves`, made of what has just been published and of the tasks' partials."""
    out, asked = work.checked.job.out, work.checked.spec
    sums = sorted(each(partial(reduce.sum_partials, out), list(enumerate(groups))), key=itemgetter(0))
    partials = add_partials(pa.concat_tables(rows for _, rows in sums))
    scored: dict[str, list[str]] = {}
    for entry in entries:
        if entry["table"] == "metrics":
            scored.setdefault(entry["path"].split("/")[1], []).append(entry["path"])
    floor = scored.get("method=random", [])
    parts = list(each(partial(summarise_files, out, run_id, asked), [(paths, floor) for paths in scored.values()])) if scored else []
    summary = concat_summaries([*parts, summarise_partials(partials, asked)])
    return {"partials": without_groups(partials), "summary": summary, "curves": curves_of(partials)}


def _filled(work: RunState, run_id: str, entries: Sequence[dict]) -> list[dict]:
    """The shards' own errors, and an empty file for every table without rows, so that queries over it answer with nothing."""
    backbone, spec = work.checked.backbone, work.checked.spec
    forms = {"errors": schema.ERRORS, "images": schema.IMAGES} | ({"maps": schema.MAPS} if spec.methods else {})
    forms["predictions"] = schema.predictions(backbone.num_classes, "logits" not in spec.no_store)
    if any(cell.table == "attributes" for cell in work.checked.cells):
        forms["attributes"] = schema.ATTRIBUTES
    if spec.metrics:
        forms |= {"metrics": schema.metrics(spec.columns)}
    if "features" not in spec.no_store:
        forms["features"] = schema.features(backbone.feature_width)
    present, added = {entry["table"] for entry in entries}, []
    for table, form in forms.items():
        rows = form.empty_table() if table != "errors" else schema.errors(work.problems)
        if table not in present or rows.num_rows:
            column = schema.PARTITIONED.get(table)
            folder = f"{table}/{column}={spec.methods[0].alias}" if column else table
            path = f"{folder}/part-{digest(rows.to_pylist())}.parquet"
            added.append(reduce.write(storage.join(work.checked.job.out, "runs", run_id, path), path, table, rows))
    return added
