"""What a job has come to: its tasks, and the receipts that answer their cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """What a job has come to.

    `answered` has the receipts of every task by its id, of which the last that names a cell answers it; `failures` tells of tasks
    that came back without one; `previous` is the run published when the job began.
    """

    checked: "CheckedJob"
    tasks: Sequence[Task]
    indexes: Mapping[sources.Shard, sources.Index]
    answered: Mapping[str, tuple[Receipt, ...]]
    failures: Sequence[dict]
    previous: str | None
    started: float
    spent: dict

    def answer(self, task: Task, cell: str) -> Receipt | None:
        """The receipt that answers a cell of a task; None where it is missing."""
        return next((receipt for receipt in reversed(self.answered.get(task.id, ())) if cell in receipt.cells), None)

    def missing(self, task: Task) -> tuple[int, ...]:
        """The cells of a task that are missing, by their positions in the plan's list."""
        return tuple(i for i, cell in enumerate(self.checked.cells) if not self.answer(task, task.cell(cell.identity)))

    def holds(self, task: Task) -> bool:
        """Whether the run that metrics are added to, if there is one, has all of the task."""
        return all(self.answer(task, task.cell(cell.identity)) for cell in self.checked.base_outputs)

    @cached_property
    def done(self) -> list[tuple[Task, list[TaskOutput]]]:
        """The tasks of which no cell is missing, with their answers; where metrics are added to a run, no cell that the run holds."""
        needed = {cell.identity for cell in self.checked.base_outputs or self.checked.cells}
        needed = {position for position, cell in enumerate(self.checked.cells) if cell.identity in needed}
        answers = ((task, self._members(task)) for task in self.tasks)
        return [(task, members) for task, members in answers if needed <= {member.position for member in members}]

    def _members(self, task: Task) -> list[TaskOutput]:
        found = []
        for position, asked in enumerate(self.checked.cells):
            cell = task.cell(asked.identity)
            receipt = self.answer(task, cell)
            if receipt:
                found.append(TaskOutput(cell, position, asked.method.alias if asked.method else None, receipt))
        return found

    @cached_property
    def before(self) -> dict | None:
        """The run.json of the run published when the job began."""
        return publish.read_manifest(self.checked.job.out, self.previous) if self.previous else None

    @cached_property
    def problems(self) -> list[dict]:
        """What is wrong with whole shards, as rows of the errors table."""
        rows = [problem.to_row() for index in self.indexes.values() for problem in index.problems]
        rows += [{column: failure[column] for column in schema.ERRORS.names} for failure in self.failures]
        return sorted(rows, key=lambda row: tuple(map(str, row.values())))
