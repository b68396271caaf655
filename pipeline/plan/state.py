"""The state of a job: its tasks, and the receipts that answer their outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline import sources
from pipeline.plan.task import Task
from pipeline.tables import publish, schema
from pipeline.tables.receipts import Receipt, TaskOutput

if TYPE_CHECKING:  # its module loads torch, which the state of a job does without
    from pipeline.plan.check import CheckedJob


@dataclass(frozen=True)
class RunState:
    """The state of a job.

    `receipts_of` has the receipts of every task by its id; the last one with an output answers it. `failures` are those of tasks that
    came back without a receipt; `previous` is the run published when the job began.
    """

    checked: "CheckedJob"
    tasks: Sequence[Task]
    indexes: Mapping[sources.Shard, sources.Index]
    receipts_of: Mapping[str, tuple[Receipt, ...]]
    failures: Sequence[dict]
    previous: str | None
    started: float
    spent: dict

    @cached_property
    def required(self) -> frozenset[int]:
        """Positions of the outputs without which a task is left out of the run: all; where a run is scored, those that it holds."""
        base = self.checked.base
        identities = {output["identity"] for output in base.manifest["cells"]} if base else set()
        return frozenset(i for i, output in enumerate(self.checked.outputs) if not base or output.identity in identities)

    def receipt(self, task: Task, output: str) -> Receipt | None:
        """The receipt that answers a task's output, given by its identity; None where it is missing."""
        return next((receipt for receipt in reversed(self.receipts_of.get(task.id, ())) if output in receipt.cells), None)

    def missing(self, task: Task) -> tuple[int, ...]:
        """Positions of a task's missing outputs in the job's list."""
        return tuple(i for i, output in enumerate(self.checked.outputs) if not self.receipt(task, task.output_identity(output.identity)))

    @property
    def unfinished(self) -> list[Task]:
        """The tasks with missing outputs, and which; where a run is scored, of the tasks that it has explained."""
        tasks = ((task, self.missing(task)) for task in self.tasks)
        return [replace(task, missing=missing) for task, missing in tasks if missing and not self._is_unexplained(missing)]

    @property
    def unexplained(self) -> list[Task]:
        """The tasks that the run to be scored has not explained as a whole; none where no run is scored."""
        return [task for task in self.tasks if self._is_unexplained(self.missing(task))]

    def _is_unexplained(self, missing: Sequence[int]) -> bool:
        return self.checked.base is not None and not self.required.isdisjoint(missing)

    @cached_property
    def done(self) -> list[tuple[Task, list[TaskOutput]]]:
        """The tasks without a missing output among the required ones, with all of their outputs that are answered."""
        outputs = ((task, self._outputs(task)) for task in self.tasks)
        return [(task, of_task) for task, of_task in outputs if self.required <= {output.position for output in of_task}]

    def _outputs(self, task: Task) -> list[TaskOutput]:
        outputs = []
        for position, output in enumerate(self.checked.outputs):
            identity = task.output_identity(output.identity)
            receipt = self.receipt(task, identity)
            if receipt:
                outputs.append(TaskOutput(identity, position, output.method.alias if output.method else None, receipt))
        return outputs

    @cached_property
    def before(self) -> dict | None:
        """The run.json of the run published when the job began."""
        return publish.read_manifest(self.checked.job.out, self.previous) if self.previous else None

    @cached_property
    def problems(self) -> list[dict]:
        """Problems of whole shards and tasks, as rows of the errors table."""
        rows = [problem.to_row() for index in self.indexes.values() for problem in index.problems]
        rows += [{column: failure[column] for column in schema.ERRORS.names} for failure in self.failures]
        return sorted(rows, key=lambda row: tuple(map(str, row.values())))
