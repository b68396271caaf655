"""One output of every task."""

from dataclasses import dataclass

from pipeline.spec.grammar import Choice


@dataclass(frozen=True)
class Output:
    """One output of every task: the rows of a table, of one method and target where it has these, and of one metric of their maps.

    Attributes:
        identity: hash of everything but the images that decides the values.
        stored: whether the metric is computed from the maps as they are stored, with 8 bits a cell.
    """

    table: str
    identity: str
    method: Choice | None = None
    target: Choice | None = None
    metric: Choice | None = None
    stored: bool = False
