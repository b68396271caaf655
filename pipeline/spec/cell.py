"""One answer asked of every task."""

from dataclasses import dataclass

from pipeline.spec.grammar import Request


@dataclass(frozen=True)
class Cell:
    """One answer asked of every task: a table, or one method and target of it, or one metric of these, from the stored map where it is `stored`.

    `identity` leaves out the images.
    """

    table: str
    identity: str
    method: Request | None = None
    target: Request | None = None
    metric: Request | None = None
    stored: bool = False
