"""A training from its images to the best network of all learning rates, the same in one process and on many workers."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch

from pipeline.backbones.libraries import checkpoint
from pipeline.backbones.weights import weights_digest
from pipeline.monitor.monitor import Monitor
from pipeline.reduce.moments import share_interval
from pipeline.refusal import Refusal
from pipeline.storage import join
from pipeline.tables import files
from pipeline.train.check import CheckedTraining
from pipeline.train.data import Images, load_images
from pipeline.train.learner import Evaluation, Learner
from pipeline.train.team import Team
from pipeline.train.trial import LearningRateTrial


def train(checked: CheckedTraining, team: Team = Team(), device: str = "cpu") -> None:
    """Train at every rate, from where an earlier start left off, and write the best network to `<out>/checkpoint.safetensors`.

    Raises:
        Refusal: where nothing can be trained on, or every rate diverged.
    """
    job = checked.job
    images = load_images(checked.image_spec, job.cache, team)
    if len(job.lr) > 1 and not images.rows["val"]:
        raise Refusal("several learning rates are told apart on validation images, and there are none; give --val-source or --val-share")
    total = (job.head_epochs + job.epochs) * len(images.rows["train"]) * len(job.lr)
    monitor = Monitor(job.log) if team.rank == 0 else None
    trials = [LearningRateTrial(Learner(checked, images, team, torch.device(device)), lr, monitor) for lr in job.lr]
    with monitor.stage("train", total, "images") if monitor else nullcontext():
        for trial in trials:
            trial.run()
    sound = [trial for trial in trials if not trial.state.diverged]
    if not sound:
        raise Refusal(f"the loss diverged at every rate of --lr {' '.join(map(str, job.lr))}; give smaller ones")
    best = max(sound, key=_goodness)
    best.learner.network.load_state_dict(best.state.network)
    test = best.learner.evaluate(images.rows["test"])
    if team.rank == 0:
        _write(checked, images, trials, best, test)


def _goodness(trial: LearningRateTrial) -> tuple[float, float]:
    """By the last epoch's accuracy on validation images, then by its loss."""
    row = trial.state.epochs[-1]
    return (row["val_accuracy"] or 0, -(row["val_loss"] or 0))


def _write(
    checked: CheckedTraining, images: Images, trials: Sequence[LearningRateTrial], best: LearningRateTrial, test: Evaluation
) -> None:
    """Write the best network, and the record of the training beside it."""
    network = best.learner.network
    recipe = replace(checked.recipe, trunk=weights_digest(network.trunk.state_dict()))
    files.write_bytes(join(checked.job.out, "checkpoint.safetensors"), checkpoint.encode(recipe, network.state_dict()))
    record = {
        "recipe": json.loads(recipe.to_json()),
        "decides": checked.identity_fields,
        "images": {split: len(rows) for split, rows in images.rows.items()},
        "lr": best.lr,
        "test_loss": test.loss if math.isfinite(test.loss or 0) else None,
        "test_accuracy": test.accuracy,
        "test_interval": share_interval(test.accuracy, len(images.rows["test"])),
        "epochs": [row for trial in trials for row in trial.state.epochs],
        "errors": images.errors,
    }
    record |= {name: best.state.epochs[-1][name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    record["val_interval"] = share_interval(record["val_accuracy"], len(images.rows["val"]))
    files.write_json(join(checked.job.out, "training.json"), record)
