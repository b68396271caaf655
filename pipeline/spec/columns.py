"""The columns of `metrics` that metrics fill, under the names they were asked for by."""

from collections.abc import Sequence

from pipeline.families import METRICS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import Choice

GROUPS = 20  # of images, resampled for the interval of a number that only the whole dataset has


FIXED = {"image_id", "model", "method", "target", "class_id", "label", "reasons"}


def columns_of(asked: Choice) -> dict[str, str | None]:
    """What a metric fills under the name it was asked for by -> which way is better."""
    return {_column_name(asked, column): better for column, better in METRICS[asked.name].columns.items()}


def binary_columns(asked: Choice) -> set[str]:
    """Those of its columns whose values are 0 or 1."""
    return {_column_name(asked, column) for column in METRICS[asked.name].binary}


def _column_name(asked: Choice, column: str) -> str:
    return asked.alias + column.removeprefix(asked.name)


def refuse_clashes(asked: Sequence[Choice]) -> None:
    """Two metrics that fill one column, or one that fills a column that means something else.

    Raises:
        Refusal: naming the column.
    """
    taken = dict.fromkeys(FIXED, "the tables")
    for metric in asked:
        for column in columns_of(metric):
            if column in taken:
                raise Refusal(f"metric {metric.alias!r} fills {column!r}, which {taken[column]!r} fills already; give one an alias")
            taken[column] = metric.alias
