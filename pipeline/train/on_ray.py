"""The same training on Ray: data-parallel workers, started again where one is lost. The only file here that imports Ray."""

import tempfile
from datetime import timedelta

from pipeline.train import loop
from pipeline.train.check import CheckedTraining
from pipeline.train.team import Team

RESTARTS = 3
PATIENCE = timedelta(hours=4)  # workers wait while one of each machine decodes the images


def train_on_ray(checked: CheckedTraining, workers: int, gpus: bool) -> None:
    """Run the loop on `workers` workers. After a loss all of them start again, from the state of the last whole epoch.

    Raises:
        RuntimeError: where the workers fail again and again.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # The loop itself writes the state and the checkpoint; Ray's own record of the run needs no shared storage.
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        TorchTrainer(
            _work,
            train_loop_config={"checked": checked},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=int(PATIENCE.total_seconds())),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=RESTARTS)),
        ).fit()


def _work(config: dict) -> None:
    """Run the loop as one worker of the team."""
    from ray import train
    from ray.train.torch import get_device

    context = train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size(), context.get_local_rank(), context.get_local_world_size())
    loop.train(config["checked"], team, str(get_device()))
