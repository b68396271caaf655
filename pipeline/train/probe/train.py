"""Train probes on features: every pooling, solver and setting, measured on every split; the best of each pooling and solver is written."""

import tempfile
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import sources, storage
from pipeline.backbones import linear_probe
from pipeline.monitor.monitor import Monitor
from pipeline.refusal import Refusal, counted
from pipeline.tables import files
from pipeline.tables.read import Run
from pipeline.tables.receipts import parquet_bytes
from pipeline.train.probe.accuracy import ACCURACY, measure
from pipeline.train.probe.features import Features, collect_features
from pipeline.train.probe.job import ProbeJob
from pipeline.train.probe.solvers import Diverged, Linear, accuracy, adam, lbfgs


def train_probe(job: ProbeJob, run: Run, names: Sequence[str]) -> list[dict]:
    """Train on the features of `run`, poolings side by side, and write the probes and `accuracy.parquet`; the rows of that table.

    Raises:
        Refusal: where a split is empty, a class has no training image, or a solver diverges at every setting.
    """
    folder, rows, monitor = storage.join(job.out, "probes", job.name), [], Monitor(job.log)
    with tempfile.TemporaryDirectory(prefix="features-") as scratch:
        pools_together = collect_features(run, _shards(job), Path(scratch), job.held_out if not job.val else 0.0, job.seed)
        _refuse_empty_classes(pools_together["train"], names, job.keep_empty)
        width = pools_together["train"].x.shape[1] // len(job.pools)
        for i, pool in enumerate(job.pools):
            splits = {split: features.columns(slice(i * width, (i + 1) * width)) for split, features in pools_together.items()}
            trunk = linear_probe.trunk_of(run.manifest["backbone"]["origin"], job.backbone, pool)
            for solver in job.solvers:
                best, fitted = _best(job, pool, solver, splits, len(names), monitor), ["train"]
                if solver == "lbfgs" and not job.val:  # the setting is chosen: the images held out for it train as well
                    fitted.append("val")
                    best = lbfgs([splits[split] for split in fitted], len(names), l2=best.setting)
                name = f"{pool or 'own'}-{solver}"
                rows_of_probe = [{**row, "fitted": row["split"] in fitted} for row in measure(name, pool, best, splits, names)]
                overall = {row["split"]: row["top1"] for row in rows_of_probe if row["class_id"] is None}
                about = {"solver": solver, "setting": best.setting, "step": best.step, "top1": overall, "run": run.run_id}
                probe = linear_probe.Probe(best.weight, best.bias, tuple(names), pool, trunk, about)
                linear_probe.write(storage.join(folder, f"{name}.safetensors"), probe)
                rows += rows_of_probe
    files.write_bytes(storage.join(folder, "accuracy.parquet"), parquet_bytes([pa.Table.from_pylist(rows, ACCURACY)]))
    return rows


def _best(job: ProbeJob, pool: str, solver: str, splits: dict[str, Features], classes: int, monitor: Monitor) -> Linear:
    """The probe of one solver that is best on the validation images, of all settings at which it does not diverge."""
    probes, diverged = [], []
    for setting in job.lr if solver == "adam" else job.l2:
        try:
            probes.append(_probe(job, pool, solver, setting, splits, classes, monitor))
        except Diverged as error:
            monitor.record("diverged", pool=pool, solver=solver, setting=setting)
            monitor.show(f"{pool or 'own pooling'}: {error}")
            diverged.append(error)
    if not probes:
        raise diverged[0]
    return max(probes, key=itemgetter(1))[0]


def _probe(
    job: ProbeJob, pool: str, solver: str, setting: float, splits: dict[str, Features], classes: int, monitor: Monitor
) -> tuple[Linear, float]:
    """The probe of one solver at one setting, with its top-1 on the validation images."""
    about, title = {"pool": pool, "solver": solver, "setting": setting}, f"{pool or 'own pooling'}, {solver} {setting:g}"
    train, val = splits["train"], splits["val"]

    def report(epoch: int, top1: float) -> None:
        monitor.record("epoch", **about, epoch=epoch, val_accuracy=top1)
        monitor.show(f"{title}: epoch {epoch} of {job.epochs}, top-1 on val {top1:.4f}")

    if solver == "adam":
        return adam(train, val, classes, lr=setting, epochs=job.epochs, batch=job.batch, seed=job.seed, report=report)
    linear = lbfgs([train], classes, l2=setting)
    top1 = accuracy(linear, val)
    monitor.record("solved", **about, iterations=linear.step, val_accuracy=top1)
    monitor.show(f"{title}: {linear.step} iterations, top-1 on val {top1:.4f}")
    return linear, top1


def _shards(job: ProbeJob) -> dict[str, set[str]]:
    """The shards of each split by the names they have in the features' run.

    Raises:
        Refusal: where one shard is in two splits.
    """
    names = {shard.urls: shard.name for shard in sources.list_shards((*job.train, *job.val, *job.test))}
    urls_of = {"train": job.train, "val": job.val, "test": job.test}
    splits = {split: {names[shard.urls] for shard in sources.list_shards(urls)} for split, urls in urls_of.items() if urls}
    for split, shards in splits.items():
        shared = next((name for other, more in splits.items() if other != split for name in shards & more), None)
        if shared:
            raise Refusal(f"shard {shared} is in two splits, {split} and another; give each shard to one of --train, --val, --test")
    return splits


def refuse_classes(job: ProbeJob, names: Sequence[str], by_shard: Mapping[str, Mapping[int, int]]) -> None:
    """Refuse classes without a training image, before a feature is computed: `by_shard` are the images of each class of each shard.

    Raises:
        Refusal: naming some.
    """
    of_train = _shards(job)["train"]
    present = {label for shard, counts in by_shard.items() if shard in of_train for label in counts}
    _refuse_empty([name for label, name in enumerate(names) if label not in present], names, job.keep_empty)


def _refuse_empty_classes(train: Features, names: Sequence[str], keep_empty: bool) -> None:
    """The same of the images that have a feature and are not held out."""
    labels = np.asarray(train.labels)
    if labels.max() >= len(names):
        raise Refusal(f"label {labels.max()} is outside 0 ... {len(names) - 1}; --classes must name every class")
    counts = np.bincount(labels, minlength=len(names))
    _refuse_empty([name for name, count in zip(names, counts, strict=True) if not count], names, keep_empty)


def _refuse_empty(empty: Sequence[str], names: Sequence[str], keep_empty: bool) -> None:
    if empty and not keep_empty:
        few = ", ".join(empty[:3]) + (" ..." if len(empty) > 3 else "")
        raise Refusal(
            f"{len(empty)} of {counted(len(names), 'classes')} have no training image ({few}); give some, or --keep-empty to train without"
        )
