"""Probes from features: every pooling, solver and setting, measured on every split; the best of each pooling and solver is kept."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import sources, storage
from pipeline.backbones import linear_probe
from pipeline.refusal import Refusal
from pipeline.tables import files
from pipeline.tables.read import Run
from pipeline.tables.receipts import parquet_bytes
from pipeline.train.probe.accuracy import ACCURACY, measure
from pipeline.train.probe.features import Features, collect_features
from pipeline.train.probe.job import ProbeJob
from pipeline.train.probe.solvers import Linear, accuracy, adam, lbfgs

log = logging.getLogger(__name__)


def train_probe(job: ProbeJob, run: Run, names: Sequence[str]) -> list[dict]:
    """Train on the features of `run`, poolings side by side, and write the probes and `accuracy.parquet`; the rows of that table.

    Raises:
        Refusal: where a split is empty, or a class has no training image.
    """
    place, rows = storage.join(job.out, "probes", job.name), []
    with tempfile.TemporaryDirectory(prefix="features-") as folder:
        together = collect_features(run, _shards(job), Path(folder), job.held_out if not job.val else 0.0, job.seed)
        _refuse_empty_classes(together["train"], names, job.keep_empty)
        width = together["train"].x.shape[1] // len(job.pools)
        for i, pool in enumerate(job.pools):
            splits = {split: features.part(slice(i * width, (i + 1) * width)) for split, features in together.items()}
            trunk = linear_probe.trunk_of(run.facts["backbone"]["origin"], job.backbone, pool)
            for solver in job.solvers:
                best, _ = max(_candidates(job, pool, solver, splits, len(names)), key=itemgetter(1))
                if solver == "lbfgs" and not job.val:  # the setting is chosen: what was held out for it trains as well
                    best = lbfgs([splits["train"], splits["val"]], len(names), l2=best.setting)
                name = f"{pool or 'own'}-{solver}"
                told = measure(name, pool, best, splits, names)
                overall = {row["split"]: row["top1"] for row in told if row["class_id"] is None}
                about = {"solver": solver, "setting": best.setting, "step": best.step, "top1": overall, "run": run.run_id}
                probe = linear_probe.Probe(best.weight, best.bias, tuple(names), pool, trunk, about)
                linear_probe.write(storage.join(place, f"{name}.safetensors"), probe)
                rows += told
    files.write_bytes(storage.join(place, "accuracy.parquet"), parquet_bytes([pa.Table.from_pylist(rows, ACCURACY)]))
    return rows


def _candidates(job: ProbeJob, pool: str, solver: str, splits: dict[str, Features], classes: int) -> Iterator[tuple[Linear, float]]:
    """The probes of one solver, one a setting, each with its top-1 on the validation images."""
    for setting in job.lr if solver == "adam" else job.l2:
        what = f"{pool or 'own pooling'}, {solver} {setting:g}"
        if solver == "adam":

            def told(epoch: int, right: float, what: str = what) -> None:
                log.info("%s: epoch %d of %d, top-1 on val %.4f", what, epoch, job.epochs, right)

            how = {"lr": setting, "epochs": job.epochs, "batch": job.batch, "seed": job.seed, "told": told}
            yield adam(splits["train"], splits["val"], classes, **how)
        else:
            found = lbfgs([splits["train"]], classes, l2=setting)
            right = accuracy(found, splits["val"])
            log.info("%s: %d iterations, top-1 on val %.4f", what, found.step, right)
            yield found, right


def _shards(job: ProbeJob) -> dict[str, set[str]]:
    """The shards of each split by the names they have in the features' run.

    Raises:
        Refusal: where one shard is in two splits.
    """
    named = {shard.urls: shard.name for shard in sources.list_shards((*job.train, *job.val, *job.test))}
    given = {"train": job.train, "val": job.val, "test": job.test}
    splits = {split: {named[shard.urls] for shard in sources.list_shards(urls)} for split, urls in given.items() if urls}
    for split, shards in splits.items():
        shared = next((name for other, more in splits.items() if other != split for name in shards & more), None)
        if shared:
            raise Refusal(f"shard {shared} is in two splits, {split} and another; give each shard to one of --train, --val, --test")
    return splits


def _refuse_empty_classes(train: Features, names: Sequence[str], kept: bool) -> None:
    labels = np.asarray(train.labels)
    if labels.max() >= len(names):
        raise Refusal(f"label {labels.max()} is outside 0 ... {len(names) - 1}; --classes must name every class")
    empty = [names[c] for c in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)]
    if empty and not kept:
        few = ", ".join(empty[:3])
        raise Refusal(f"{len(empty)} of {len(names)} classes have no training image ({few}); give some, or --keep-empty to train without")
