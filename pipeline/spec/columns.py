"""The columns of the table `metrics` that a metric fills, under the metric's alias."""

from collections.abc import Sequence

from pipeline.families import METRICS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import Choice

GROUPS = 20  # of images, resampled for the interval of a number that only the whole dataset has
FIXED = {"image_id", "model", "method", "target", "class_id", "label", "reasons"}


def columns_of(metric: Choice) -> dict[str, str | None]:
    """The columns that a metric fills, under its alias -> "higher", "lower" or None: which way is better."""
    return {_column_name(metric, column): better for column, better in METRICS[metric.name].columns.items()}


def binary_columns(metric: Choice) -> set[str]:
    """The columns of a metric whose values are 0 or 1."""
    return {_column_name(metric, column) for column in METRICS[metric.name].binary}


def _column_name(metric: Choice, column: str) -> str:
    return metric.alias + column.removeprefix(metric.name)


def refuse_clashes(metrics: Sequence[Choice]) -> None:
    """Refuse two metrics that fill one column, and a metric that fills a column with another meaning.

    Raises:
        Refusal: naming the column.
    """
    owners = dict.fromkeys(FIXED, "the tables")
    for metric in metrics:
        for column in columns_of(metric):
            if column in owners:
                raise Refusal(f"metric {metric.alias!r} fills {column!r}, which {owners[column]!r} fills already; give one an alias")
            owners[column] = metric.alias
