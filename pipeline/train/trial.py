"""A training at one learning rate: its epochs, and its state after each."""

import math
import time
from dataclasses import dataclass

import torch

from pipeline.monitor.monitor import Monitor
from pipeline.refusal import Refusal
from pipeline.storage import join
from pipeline.train import descent
from pipeline.train.epoch import Phase, optimiser_of, train_epoch
from pipeline.train.learner import Learner
from pipeline.train.state import State, StateFile


@dataclass
class LearningRateTrial:
    """A training at one learning rate; only the first worker has a `monitor`, and writes."""

    learner: Learner
    lr: float
    monitor: Monitor | None
    state: State = State()

    @property
    def state_file(self) -> StateFile:
        """The file of the state between epochs."""
        checked = self.learner.checked
        identity_fields = {**checked.identity_fields, "lr": self.lr}
        return StateFile(join(checked.job.out, "state", f"lr-{self.lr:g}.safetensors"), checked.recipe, identity_fields)

    def run(self) -> None:
        """All epochs that are missing; after each the state is written."""
        job, self.state = self.learner.checked.job, self.state_file.read()
        epochs, done = job.head_epochs + job.epochs, len(self.state.epochs)
        if done > epochs:
            raise Refusal(f"{self.state_file.url} has {done} epochs already; give --epochs {done - job.head_epochs} or another --out")
        if self.state.network:
            self.learner.network.load_state_dict(self.state.network)
        if self.monitor:
            self.monitor.add((epochs if self.state.diverged else done) * len(self.learner.images.rows["train"]))
        for epoch in range(done, epochs):
            if self.state.diverged:
                break
            self.run_epoch(epoch)
            if self.learner.team.rank == 0:
                self.state_file.write(self.state)

    def run_epoch(self, epoch: int) -> None:
        """Train for one epoch, counted from 0, and measure the network on the validation images."""
        learner, started = self.learner, time.monotonic()
        _ = learner.features  # every worker comes to their barrier, one without a share of the first batch as well
        phase = Phase.of(learner.checked.job, self.lr, epoch)
        optimiser = optimiser_of(learner, phase)
        if not phase.starts_at_rest:
            descent.restore_memory(learner.network, optimiser, self.state.memory)
        means = train_epoch(learner, phase, optimiser, epoch, self.monitor)
        validation = learner.evaluate(learner.images.rows["val"])
        row: dict = {"lr": self.lr, "epoch": epoch + 1, "trained": "head" if phase.fixed_trunk else "all"}
        row |= {"loss": means.loss, "nll": means.nll, "accuracy": means.accuracy}
        row |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        row |= {"seconds": round(time.monotonic() - started, 3)}
        row = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        diverged = not (math.isfinite(means.loss) and math.isfinite(validation.loss or 0))
        if self.monitor:
            self._show(self.monitor, row, means.images, diverged)
        self.state = self._state_after(row, optimiser, diverged)

    def _show(self, monitor: Monitor, row: dict, images: int, diverged: bool) -> None:
        numbers = {name: value for name, value in row.items() if isinstance(value, float) and name not in ("lr", "seconds")}
        text = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        monitor.record("epoch", **row)
        monitor.show(
            f"rate {row['lr']:g}, epoch {row['epoch']}: {text}, {images / max(row['seconds'], 1e-3):.1f} images/s"
            + (", diverged" if diverged else "")
        )

    def _state_after(self, row: dict, optimiser: torch.optim.Optimizer, diverged: bool) -> State:
        """The state after one more epoch, of which `row` is that of the training table."""
        network = {name: value.detach().cpu().clone() for name, value in self.learner.network.state_dict().items()}
        memory = {name: value.cpu().clone() for name, value in descent.memory_of(self.learner.network, optimiser).items()}
        return State((*self.state.epochs, row), network, memory, diverged)
