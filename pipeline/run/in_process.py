"""The stages of a job's tasks in this process, one piece after the other: for a notebook, a test, or a machine without Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.stages.land import Land
from pipeline.stages.messages import Stage
from pipeline.stages.read import Read

ON_RAY = False  # where the functions of this backend work


def explain_tasks(
    tasks: Sequence[str], read: Read, load: Callable[[], Stage], land: Land, workers: int, gpus: int, timeout: float
) -> Iterator[str]:
    """Receipts of tasks (both as JSON), in order. There is nobody here to stop a task after `timeout` seconds."""
    explain = load()
    for task in tasks:
        yield land(explain(read({"task": task})))["receipt"]


def map(function: Callable[[Any], Any], items: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """`function` of every item, in order; one worker does all of them."""
    for item in items:
        yield function(item)
