"""The workers of a job. A backend, `on_ray` or `in_process`, has a function for every kind of work that is spread out, and ON_RAY."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from pipeline.refusal import Refusal


@dataclass(frozen=True)
class Executor:
    """Carries out a job's work on its workers.

    Attributes:
        map: (function, items, workers=None) -> the function's results, in the order in which they are finished; `workers` at a time.
        explain_tasks: the stages of tasks, see `on_ray.explain_tasks`.
        workers: processes that hold a network.
        gpus: GPUs of the cluster or the machine; 0 where the job runs on CPUs.
        on_ray: whether the workers are Ray's; else all work is done in this process.
    """

    map: Callable
    explain_tasks: Callable
    workers: int
    gpus: int
    on_ray: bool

    @staticmethod
    def of(backend: ModuleType, cpus: int, gpus: int, workers: int | None = None, device: str = "auto") -> "Executor":
        """An executor on so many CPUs and GPUs; by default one worker a GPU, or a CPU where there is none.

        Raises:
            Refusal: where the job asks for a GPU and there is none.
        """
        if device == "cuda" and not gpus:
            raise Refusal("--device cuda: there is no GPU here; use --device cpu or auto")
        gpus = 0 if device == "cpu" else gpus
        return Executor(backend.map, backend.explain_tasks, workers or gpus or cpus, gpus, backend.ON_RAY)
