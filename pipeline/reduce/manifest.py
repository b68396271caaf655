"""The manifest of a run, run.json: its job, network, methods, targets, metrics, shards, files, counts and costs.

Each function below fills some of its fields. What decides values stands in `_description`, what the run took in `_times`.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from pipeline.engine import costs
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.check import CheckedJob
from pipeline.plan.dropped import dropped_by
from pipeline.plan.state import RunState
from pipeline.reduce.analyses import ANALYSES
from pipeline.refusal import public
from pipeline.spec.output import Output

_COMPONENTS = ("method", "target", "metric")


def manifest_of(state: RunState, entries: Sequence[dict], publish_seconds: float) -> dict:
    """The manifest but for the run's id and its plan; `entries` describe the run's files."""
    return {
        "previous": state.previous,
        "counts": _counts(state, entries),
        "files": entries,
        **_description(state),
        **_times(state, publish_seconds),
        "passes": costs.sum_accounts(_costs(state)),
        "failures": failures_of(state),
        "dropped": dropped_by(state),
    }


def _counts(state: RunState, entries: Sequence[dict]) -> dict:
    """Images listed, explained (a prediction and every map of the job) and failed; shards with problems; rows of errors."""
    images = sum(task.count for task in state.tasks)
    predicted = sum(entry["rows"] for entry in entries if entry["table"] == "predictions")
    explained = predicted - sum(entry.get("incomplete", 0) for entry in entries)
    return {
        "images": images,
        "explained": explained,
        "failed": images - explained,
        "shards": len(state.indexes),
        "shards_failed": len({problem["shard"] for problem in state.problems}),
        "errors": sum(entry["rows"] for entry in entries if entry["table"] == "errors"),
    }


def failures_of(state: RunState) -> list[dict]:
    """The methods and metrics that failed by themselves: on how many of the predicted images, whether they ever worked, their first error."""
    failed: Counter[tuple[str, str]] = Counter()  # images
    first: dict[tuple[str, str], str] = {}
    predicted = 0
    maps: Counter[str] = Counter()  # of each method
    for _, of_task in state.done:
        counts: Counter[tuple[str, str]] = Counter()  # one image may fail for several targets
        for output in of_task:
            planned, groups = state.checked.outputs[output.position], output.row_groups
            predicted += groups.rows if planned.table == "predictions" else 0
            if not planned.method:
                continue
            key = ("metric", planned.metric.alias) if planned.metric else ("method", planned.method.alias)
            maps[planned.method.alias] += groups.rows if planned.table == "maps" else 0
            images, error = output.receipt.facts.get("failures", {}).get(output.cell, (0, ""))
            if images:
                counts[key], first[key] = max(counts[key], images), first.get(key, error)
        failed.update(counts)
    return [
        {
            kind: alias,
            "images": count,
            "of": predicted,
            "worked": bool(maps[alias]) if kind == "method" else count < predicted,
            "first": first[kind, alias],
        }
        for (kind, alias), count in failed.items()
    ]


def _description(state: RunState) -> dict:
    """The job as it was checked, its network, and the versions of the libraries."""
    checked, backbone = state.checked, state.checked.backbone
    fields = ("name", "layer", "num_classes", "channels", "grid", "image_size", "identity")
    return {
        "job": {field: _public(value) for field, value in vars(checked.job).items() if field != "log"},
        "backbone": {field: getattr(backbone, field) for field in fields}
        | {"prepare": vars(backbone.prepare), "origin": dict(backbone.origin)},
        "methods": methods_of(checked),
        "targets": [{"name": t.alias, "target": t.name, "argument": t.argument, **t.args} for t in checked.spec.targets],
        "metrics": [
            {**m.args, "name": m.alias, "metric": m.name, "version": METRICS[m.name].version, "stored": m.alias in checked.spec.stored}
            for m in checked.spec.metrics
        ],
        "analyses": [{**a.args, "name": a.name, "version": ANALYSES[a.name].version} for a in checked.analyses],
        "skipped": checked.skipped,
        "shards": [{"name": s.name, "identity": i.identity, "images": i.count} for s, i in state.indexes.items()],
        "cells": [{"table": output.table, "identity": output.identity, **_aliases(output)} for output in checked.outputs],
        "versions": {name: version(name) for name in ("torch", "timm", "open_clip_torch", "pyarrow", "numpy")},
    }


def _aliases(output: Output) -> dict[str, str | None]:
    """The method, target and metric of an output by the names the job gives them."""
    choices = {component: getattr(output, component) for component in _COMPONENTS}
    return {component: choice and choice.alias for component, choice in choices.items()}


def methods_of(checked: CheckedJob) -> list[dict]:
    """The methods as the manifest describes them."""
    return [{**m.args, "name": m.alias, "method": m.name, "version": METHODS[m.name].version} for m in checked.spec.methods]


def _public(value):
    """A field of the job without the credentials that a URL may carry."""
    if isinstance(value, tuple):
        return [_public(item) for item in value]
    return public(value) if isinstance(value, str) else value


def _costs(state: RunState) -> Iterator[dict]:
    """The costs of each receipt of this run, whenever it was computed; of a call that served other runs as well, this run's share."""
    payers_of = [
        {"look", *([output.method.alias] if output.method else ()), *([output.metric.name] if output.metric else ())}
        for output in state.checked.outputs
    ]
    for _, outputs in state.done:
        payers: dict[str, set[str]] = {}
        for output in outputs:
            payers.setdefault(output.receipt.folder, set()).update(payers_of[output.position])
        facts = {output.receipt.folder: output.receipt.facts for output in outputs}
        for folder, names in payers.items():
            passes, seconds = (facts[folder].get(key, {}) for key in ("passes", "payer_seconds"))
            yield {payer: {**passes[payer], "seconds": seconds.get(payer, 0)} for payer in passes.keys() & names}


def _times(state: RunState, publish_seconds: float) -> dict:
    """When the run began and ended (ISO 8601, UTC), and the seconds it took.

    `spent` holds numbers alone: sums over this run's tasks, which `run/execute.py` adds up from their receipts, and what publishing took.
    """
    finished = time.time()
    return {
        "started": datetime.fromtimestamp(state.started, UTC).isoformat(),
        "finished": datetime.fromtimestamp(finished, UTC).isoformat(),
        "seconds": round(finished - state.started, 3),
        "spent": {**state.spent, "publish_seconds": round(publish_seconds, 3)},
    }
