"""The end of a job: the outputs of its tasks are compacted into tables, described in run.json and published."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter

import pyarrow as pa

from pipeline import storage
from pipeline.monitor.monitor import Monitor
from pipeline.plan.state import RunState
from pipeline.reduce import compact
from pipeline.reduce.analyses.registry import identity_of
from pipeline.reduce.corpus import summarise_partials
from pipeline.reduce.curves import curves_of
from pipeline.reduce.manifest import manifest_of
from pipeline.reduce.summary import concat_summaries, summarise_files
from pipeline.reduce.units import Map, RunFiles, compute_analyses
from pipeline.reduce.weight_similarity import weight_similarity
from pipeline.refusal import Refusal, counted
from pipeline.tables import files, publish, receipts, schema
from pipeline.tables.errors import failures_in_words
from pipeline.tables.identity import digest
from pipeline.tables.receipts import TaskOutput
from pipeline.tables.wide import add_partials, drop_groups

Groups = list[list[TaskOutput]]


@dataclass(frozen=True)
class PublishResult:
    """The result of a job: the run now published under its name, its counts, and whether it is a new one.

    `failures` and `dropped` are those of its manifest: methods and metrics that failed, and what the run before held beyond this one.
    """

    run_id: str
    counts: dict
    new: bool
    failures: Sequence[dict] = ()
    dropped: Mapping[str, list[str] | int] = field(default_factory=dict)

    @staticmethod
    def of(manifest: Mapping, new: bool) -> "PublishResult":
        """The result that a manifest describes; one of an earlier version says less."""
        dropped = manifest.get("dropped", {}) if new else {}
        return PublishResult(manifest["run_id"], manifest["counts"], new, manifest.get("failures", ()), dropped)

    @property
    def complete(self) -> bool:
        """Whether every shard could be read in full, and every method and metric worked on some image."""
        return not self.counts["shards_failed"] and all(failure["worked"] for failure in self.failures)


def publish_run(state: RunState, parallel_map: Map, monitor: Monitor) -> PublishResult:
    """Publish the run, unless the one published before it is the same.

    Raises:
        Refusal: where nothing could be explained; what is published stays as it is, and `tables.last` finds the errors.
        Overtaken: where another job has published under this name meanwhile.
        TooManyFailed: where more failed than the job allows; the run stays unpublished.
        Damaged: where a task's file is missing or not what was written; nothing is published yet.
    """
    began, job = time.monotonic(), state.checked.job
    plan = _plan_of(state)
    if state.previous and state.before and state.before["plan"] == plan:
        return PublishResult.of(state.before, new=False)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{plan[:8]}"
    folder = storage.join(job.out, "runs", run_id)
    entries = _write_tables(state, parallel_map, monitor, run_id)
    used = {output.receipt.folder: output.receipt for _, outputs in state.done for output in outputs}
    files.write_bytes(storage.join(folder, "receipts.parquet"), receipts.pack(used.values()))
    manifest = {"run_id": run_id, "plan": plan, **manifest_of(state, entries, time.monotonic() - began)}
    files.write_json(storage.join(folder, "run.json"), manifest)
    _refuse_failed(state, manifest)
    publish.flip(job.out, job.name, run_id, state.previous, job.single_writer)
    return PublishResult.of(manifest, new=True)


def _plan_of(state: RunState) -> str:
    """The identity of everything that a run publishes; a new version of what is made of metrics makes a new run."""
    checked = state.checked
    studies = ["weight_similarity"] * checked.job.weight_similarity + [identity_of(choice) for choice in checked.analyses]
    versions = [[table, schema.VERSIONS.get(table, 1)] for table in ("summary", "curves") if checked.spec.metrics]
    return digest([sorted(output.cell for _, outputs in state.done for output in outputs), state.problems, *studies, *versions])


def _refuse_failed(state: RunState, manifest: Mapping) -> None:
    """Refuse to publish a run of which more failed than the job allows, or in which nothing worked: no map, or no prediction."""
    counts, job = manifest["counts"], state.checked.job
    images, wheres = counted(counts["images"], "images"), f"tables.last({job.out!r}, {job.name!r}).table('errors') has all reasons"
    share = max(counts["failed"] / max(1, counts["images"]), counts["shards_failed"] / max(1, counts["shards"]))
    reasons = failures_in_words(manifest["failures"])
    if share > job.max_failed:
        raise publish.TooManyFailed(
            f"{share:.1%} of the images or shards failed, and --max-failed is {job.max_failed:.1%}: the run is complete as "
            f"{manifest['run_id']} and not published; what is published stays as it is{reasons and f'; {reasons}'}; {wheres}"
        )
    rows = Counter[str]()
    for entry in manifest["files"]:
        rows[entry["table"]] += entry["rows"]
    if not counts["explained"] and not rows["maps"]:
        raise Refusal(
            f"not one of {images} could be explained, so nothing is published; {reasons or _first_error(state, manifest)}; {wheres}"
        )


def _first_error(state: RunState, manifest: Mapping) -> str:
    """The first row of a run's errors, in words."""
    paths = [entry["path"] for entry in manifest["files"] if entry["table"] == "errors" and entry["rows"]]
    url = storage.join(state.checked.job.out, "runs", manifest["run_id"], *paths[:1])
    [error] = files.read_parquet(url).slice(0, 1).to_pylist() if paths else [{"error": "Unknown", "message": "no error was recorded"}]
    return f"the first of its errors: {error['error']}: {error['message']}"


def damaged(state: RunState, parallel_map: Map) -> set[str]:
    """Folders of all receipts that this job would publish from, and whose files are missing or not what was written."""
    folders_of_groups = parallel_map(partial(compact.damaged_folders, _context(state)), _groups(state))
    return {folder for folders in folders_of_groups for folder in folders}


def _context(state: RunState) -> compact.CompactionContext:
    previous_files = {entry["path"]: entry for entry in state.before["files"]} if state.before else {}
    return compact.CompactionContext(state.checked.job.out, sorted(state.checked.spec.columns), state.previous, previous_files)


def _groups(state: RunState) -> Groups:
    """The outputs of all finished tasks, in the groups they are compacted by."""
    starts = compact.group_starts({task.shard.name for task, _ in state.done})
    groups: Groups = []
    last = None
    for task, outputs in state.done:
        if not groups or (task.shard.name in starts and task.shard.name != last):
            groups.append([])
        last = task.shard.name
        groups[-1] += outputs
    return groups


def _write_tables(state: RunState, parallel_map: Map, monitor: Monitor, run_id: str) -> list[dict]:
    """Write all tables of a run; returns the entries of their files."""
    groups, context = _groups(state), _context(state)
    compacted = _compact_groups(context, groups, parallel_map, monitor, run_id)
    entries = sorted((entry for of_group in compacted for entry in of_group), key=itemgetter("path"))
    tables = _summarise_groups(state, groups, parallel_map, run_id, entries) if state.checked.spec.metrics and groups else {}
    if state.checked.job.weight_similarity:
        curves = weight_similarity(state.checked.backbone)
        tables["curves"] = pa.concat_tables([tables["curves"], curves]) if tables else curves
    outputs = [output for group in groups for output in group]
    for table, rows in tables.items():
        path = compact.file_name(table, None, outputs, context.columns)
        entries.append(compact.write_table(context.url(run_id, path), path, table, rows))
    others = [entry for entry in entries if entry["table"] in tables]
    files = RunFiles(context, run_id, state.checked.backbone.image_size, compacted, others)
    entries += compute_analyses(files, state.checked.analyses, parallel_map, monitor)
    return entries + _write_problems_and_empty_tables(state, context, run_id, {entry["table"] for entry in entries})


def _compact_groups(
    context: compact.CompactionContext, groups: Groups, parallel_map: Map, monitor: Monitor, run_id: str
) -> list[list[dict]]:
    """Compact every group of tasks; returns the entries of each group's files, in a fixed order."""
    compacted: list[list[dict]] = []
    with monitor.stage("publish", len(groups), "groups"):
        for entries in parallel_map(partial(compact.compact, context, run_id), groups):
            compacted.append(sorted(entries, key=itemgetter("path")))
            monitor.add()
    return sorted(compacted, key=lambda entries: [entry["path"] for entry in entries])


def _summarise_groups(state: RunState, groups: Groups, parallel_map: Map, run_id: str, entries: Sequence[dict]) -> dict[str, pa.Table]:
    """`partials`, `summary` and `curves`, made of the published metrics in `entries` and of the tasks' partials."""
    out, spec = state.checked.job.out, state.checked.spec
    numbered_sums = sorted(parallel_map(partial(compact.sum_partials, out), list(enumerate(groups))), key=itemgetter(0))
    partials = add_partials(pa.concat_tables(sums for _, sums in numbered_sums))
    paths_of: dict[str, list[str]] = {}  # of the metrics of each method, by its folder's name
    for entry in entries:
        if entry["table"] == "metrics":
            paths_of.setdefault(entry["path"].split("/")[1], []).append(entry["path"])
    control = paths_of.get("method=random", [])
    methods = [(paths, control) for paths in paths_of.values()]
    summaries = list(parallel_map(partial(summarise_files, out, run_id, spec), methods)) if methods else []
    summary = concat_summaries([*summaries, summarise_partials(partials, spec)], spec)
    return {"partials": drop_groups(partials), "summary": summary, "curves": curves_of(partials)}


def _write_problems_and_empty_tables(state: RunState, context: compact.CompactionContext, run_id: str, present: set[str]) -> list[dict]:
    """Write the shards' own errors, and an empty file for every table that is not `present`, so that queries over it find no rows."""
    backbone, spec = state.checked.backbone, state.checked.spec
    schemas = {"errors": schema.ERRORS, "images": schema.IMAGES} | ({"maps": schema.MAPS} if spec.methods else {})
    schemas["predictions"] = schema.predictions(backbone.num_classes, "logits" not in spec.no_store)
    if any(output.table == "attributes" for output in state.checked.outputs):
        schemas["attributes"] = schema.ATTRIBUTES
    if spec.metrics:
        schemas["metrics"] = schema.metrics(spec.columns)
    if "features" not in spec.no_store:
        schemas["features"] = schema.features(backbone.feature_width)
    entries = []
    for table, columns in schemas.items():
        rows = columns.empty_table() if table != "errors" else schema.errors(state.problems)
        if table not in present or rows.num_rows:
            partition = schema.PARTITIONED.get(table)
            folder = f"{table}/{partition}={spec.methods[0].alias}" if partition else table
            path = f"{folder}/part-{digest(rows.to_pylist())}.parquet"
            entries.append(compact.write_table(context.url(run_id, path), path, table, rows))
    return entries
