"""shards -> decode -> explain -> land, on Ray: the only file that imports ray.data.

One row is one task, never split: its pixels travel in one column, and only its receipt reaches the driver.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.stages import Explain, Land, Read

log = logging.getLogger(__name__)


def explain_tasks(tasks: Sequence[str], read: Read, explain: Callable[[], Explain], land: Land, workers: int, gpus: int) -> Iterator[str]:
    """Receipts of tasks (both as JSON), in the order they are finished.

    Decoding and landing share a quarter of a CPU per explaining actor, which keeps the rest: on two CPUs neither starves the other.
    """
    import ray

    share = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 0.75}
    rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    rows = rows.map(read, num_cpus=0.25)
    rows = rows.map_batches(
        _Actor,
        fn_constructor_args=(explain,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
        **share,
    )
    rows = rows.map(land, num_cpus=0.25)
    for row in rows.iter_rows():
        yield row["receipt"]


class _Actor:
    """Holds one backbone for as long as the job runs."""

    def __init__(self, explain: Callable[[], Explain]):
        self.explain = explain()

    def __call__(self, batch: dict) -> dict:
        answer = self.explain({name: column[0] for name, column in batch.items()})
        return {name: [value] for name, value in answer.items()}


def each(function: Callable[[Any], Any], items: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """`function` of every item, as Ray tasks of a quarter CPU each, at most `workers` at a time, in the order they are finished."""
    import ray
    from ray import cloudpickle

    rows = ray.data.from_items([{"item": cloudpickle.dumps(item)} for item in items], override_num_blocks=len(items))
    work = rows.map(lambda row: {"result": cloudpickle.dumps(function(cloudpickle.loads(row["item"])))}, num_cpus=0.25, concurrency=workers)
    for row in work.iter_rows():
        yield cloudpickle.loads(row["result"])
