"""The same training on Ray: data-parallel workers, started again where one is lost. The only file here that imports Ray."""

import tempfile
from datetime import timedelta

from pipeline.train import loop
from pipeline.train.check import CheckedTraining
from pipeline.train.team import Team

RESTARTS = 3
PATIENCE = timedelta(hours=4)  # workers wait while one of each machine decodes the images


def train(checked: CheckedTraining, workers: int, gpus: bool) -> None:
    """Run the loop on `workers` workers. After a loss all of them start again, from the state of the last whole epoch.

    Raises:
        RuntimeError: where the workers fail again and again.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # What is kept is written by the loop itself; Ray's own notes of the run need no shared storage.
    with tempfile.TemporaryDirectory(prefix="train-") as notes:
        TorchTrainer(
            _work,
            train_loop_config={"ready": checked},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=int(PATIENCE.total_seconds())),
            run_config=RunConfig(storage_path=notes, failure_config=FailureConfig(max_failures=RESTARTS)),
        ).fit()


def _work(config: dict) -> None:
    """What one worker does."""
    from ray import train
    from ray.train.torch import get_device

    here = train.get_context()
    team = Team(here.get_world_rank(), here.get_world_size(), here.get_local_rank(), here.get_local_world_size())
    loop.train(config["ready"], team, str(get_device()))
