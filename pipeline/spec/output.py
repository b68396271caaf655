"""One answer asked of every task."""

from dataclasses import dataclass

from pipeline.spec.grammar import Choice


@dataclass(frozen=True)
class Output:
    """One answer asked of every task: a table, or one method and target of it, or one metric of these, from the stored map where it is `stored`.

    `identity` leaves out the images.
    """

    table: str
    identity: str
    method: Choice | None = None
    target: Choice | None = None
    metric: Choice | None = None
    stored: bool = False
