"""What run.json tells of a run: the job, the network, its questions, its shards, its counts, and what it has cost."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from pipeline.engine import costs
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.check import CheckedJob
from pipeline.plan.state import RunState
from pipeline.refusal import public

_ASKED = ("method", "target", "metric")


def facts_of(work: RunState, entries: Sequence[dict], publish_seconds: float) -> dict:
    """Everything about a run but its name and its plan; `entries` describe its files."""
    return {
        "previous": work.previous,
        "counts": _counted(work, entries),
        "files": entries,
        **_described(work),
        **_timed(work, publish_seconds),
        "passes": costs.sum_accounts(_accounts(work)),
    }


def _counted(work: RunState, entries: Sequence[dict]) -> dict:
    """Images seen, explained (a prediction and every map asked for) and failed; shards with problems; rows of errors."""
    seen = sum(task.stop - task.start for task in work.tasks)
    predicted = sum(entry["rows"] for entry in entries if entry["table"] == "predictions")
    explained = predicted - sum(entry.get("incomplete", 0) for entry in entries)
    return {
        "images": seen,
        "explained": explained,
        "failed": seen - explained,
        "shards": len(work.indexes),
        "shards_failed": len({problem["shard"] for problem in work.problems}),
        "errors": sum(entry["rows"] for entry in entries if entry["table"] == "errors"),
    }


def _described(work: RunState) -> dict:
    checked, backbone = work.checked, work.checked.backbone
    sizes = ("name", "layer", "num_classes", "channels", "grid", "image_size", "identity")
    return {
        "job": {field: _public(value) for field, value in vars(checked.job).items()},
        "backbone": {key: getattr(backbone, key) for key in sizes} | {"origin": dict(backbone.origin)},
        "methods": methods_of(checked),
        "targets": [{"name": t.alias, "target": t.name, "argument": t.argument, **t.args} for t in checked.spec.targets],
        "metrics": [
            {**m.args, "name": m.alias, "metric": m.name, "version": METRICS[m.name].version, "stored": m.alias in checked.spec.stored}
            for m in checked.spec.metrics
        ],
        "skipped": checked.skipped,
        "shards": [{"name": s.name, "identity": i.identity, "images": i.count} for s, i in work.indexes.items()],
        "cells": [
            {"table": c.table, "identity": c.identity, **{asked: (r := getattr(c, asked)) and r.alias for asked in _ASKED}}
            for c in checked.cells
        ],
        "versions": {name: version(name) for name in ("torch", "timm", "open_clip_torch", "pyarrow", "numpy")},
    }


def methods_of(checked: CheckedJob) -> list[dict]:
    """The methods as run.json describes them."""
    return [{**m.args, "name": m.alias, "method": m.name, "version": METHODS[m.name].version} for m in checked.spec.methods]


def _public(value):
    """A field of the job without the credentials that a URL may carry."""
    if isinstance(value, tuple):
        return [_public(part) for part in value]
    return public(value) if isinstance(value, str) else value


def _accounts(work: RunState) -> Iterator[dict]:
    """What each receipt of this run has cost, whenever it was computed; of a call that also answered other questions, this run's share."""
    payers = [{"look", cell.method and cell.method.alias, cell.metric and cell.metric.name} for cell in work.checked.cells]
    for _, members in work.done:
        asked: dict[str, set[str]] = {}
        for member in members:
            asked.setdefault(member.receipt.folder, set()).update(payers[member.position])
        spent = {member.receipt.folder: member.receipt.facts.get("passes", {}) for member in members}
        for folder, names in asked.items():
            yield {payer: spent[folder][payer] for payer in spent[folder].keys() & names}


def _timed(work: RunState, publish_seconds: float) -> dict:
    finished = time.time()
    return {
        "started": datetime.fromtimestamp(work.started, UTC).isoformat(),
        "finished": datetime.fromtimestamp(finished, UTC).isoformat(),
        "seconds": round(finished - work.started, 3),
        "spent": {**work.spent, "publish_seconds": round(publish_seconds, 3)},
    }
