"""shards -> decode -> explain -> land, on Ray: the only file that imports ray.data.

One row is one task, never split: its pixels travel in one column, and only its receipt reaches the driver. Only the actors that explain load
torch, which takes seconds and most of a gigabyte.
"""

import faulthandler
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

from pipeline.plan.task import Task
from pipeline.sources import ShardError
from pipeline.stages.land import Land
from pipeline.stages.messages import Stage, explain_failure, read_failure
from pipeline.stages.read import Read

ON_RAY = True  # where the functions of this backend work

ATTEMPTS = 3  # of one task, before the process it takes with it each time is held against it
STDERR = 2


def explain_tasks(
    tasks: Sequence[str], read: Read, load: Callable[[], Stage], land: Land, workers: int, gpus: int, timeout: float
) -> Iterator[str]:
    """Receipts of tasks (both as JSON), in the order they are finished.

    An actor has one task at a time: the first that is ready would take others into its queue while the rest still load, and hold two at the
    end while they idle. The next task is decoded meanwhile. Decoding and landing share a quarter of a CPU per explaining actor, which keeps
    the rest: on two CPUs neither starves the other.
    """
    import ray

    # Workers find the ledger by its name, so that what they are built from holds nothing that lives on some node. This process keeps it alive.
    ledger_name = f"ledger-{uuid4()}"
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ledger).options(name=ledger_name).remote()
    share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 0.75}
    rows: ray.data.Dataset = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    rows = rows.map(_Guard(read, "read", read_failure, ledger_name, timeout), num_cpus=0.25)
    rows = rows.map_batches(
        _Actor,
        fn_constructor_args=(load, ledger_name, timeout),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks)), max_tasks_in_flight_per_actor=1),
        **share,
    )
    rows = rows.map(land, num_cpus=0.25)
    for row in rows.iter_rows():
        yield row["receipt"]
    del actor


class _Actor:
    """Holds one backbone for as long as the job runs."""

    def __init__(self, load: Callable[[], Stage], ledger_name: str, timeout: float):
        self.explain = _Guard(load(), "explain", explain_failure, ledger_name, timeout)

    def __call__(self, batch: dict) -> dict:
        result = self.explain({name: column[0] for name, column in batch.items()})
        return {name: [value] for name, value in result.items()}


class _Ledger:
    """Counts the tasks that were begun and never ended. Ray starts a process that died again for ever, and has no such count."""

    def __init__(self):
        self.open: Counter[tuple] = Counter()

    def begin(self, key: tuple) -> int:
        """Count a beginning of the task; returns how often it has been begun since it last ended."""
        self.open[key] += 1
        return self.open[key]

    def end(self, key: tuple) -> None:
        del self.open[key]


@dataclass(frozen=True)
class _Guard:
    """One stage of a task. A process that is still at it after `timeout` seconds ends itself, and says where it hung.

    A task over which the process has ended `ATTEMPTS` times is not begun again: it fails, and the others go on.
    """

    stage: Stage
    name: str
    fail: Callable[[dict, dict], dict]
    ledger_name: str
    timeout: float

    def __call__(self, row: dict) -> dict:
        import ray

        task = Task.from_json(row["task"])
        key, ledger = (self.name, task.id), _actor_of(self.ledger_name)
        try:
            if ray.get(ledger.begin.remote(key)) > ATTEMPTS:
                images = f"images {task.start} to {task.stop - 1} of the shard"
                reason = f"{ATTEMPTS} times the worker died or was stopped after {self.timeout:g} s over {images}"
                return self.fail(row, task.failure(ShardError("WorkerDied", reason), self.name))
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=STDERR)
            return self.stage(row)
        finally:
            faulthandler.cancel_dump_traceback_later()
            ray.get(ledger.end.remote(key))


@cache
def _actor_of(name: str):
    """The actor of this name in the job's namespace, looked up once in each process."""
    import ray

    return ray.get_actor(name)


def map(function: Callable[[Any], Any], items: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """`function` of every item, as Ray tasks of a quarter CPU each, at most `workers` at a time, in the order they are finished.

    An error of the function is raised as it is, not as Ray wraps it.
    """
    import ray
    from ray import cloudpickle

    def attempt(row: dict) -> dict:
        try:
            return {"result": cloudpickle.dumps((function(cloudpickle.loads(row["item"])), None))}
        except Exception as error:
            return {"result": cloudpickle.dumps((None, error))}

    rows = ray.data.from_items([{"item": cloudpickle.dumps(item)} for item in items], override_num_blocks=len(items))
    for row in rows.map(attempt, num_cpus=0.25, concurrency=workers).iter_rows():
        result, error = cloudpickle.loads(row["result"])
        if error is not None:
            raise error
        yield result
