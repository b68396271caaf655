"""The errors table: which stage failed, for which image or shard, and why; and the methods and metrics that a manifest says failed."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.refusal import counted
from pipeline.tables import schema

FEW = 3  # failed methods and metrics that one line names


def deduplicate(errors: pa.Table) -> pa.Table:
    """Errors without repetitions, sorted."""
    distinct = errors.group_by(errors.column_names).aggregate([]).select(errors.column_names)
    return distinct.sort_by([(name, "ascending") for name in errors.column_names]).cast(schema.ERRORS)


def failures_in_words(failures: Sequence[Mapping]) -> str:
    """Which methods and metrics failed, on how many images, with the first error of each; empty where none did."""
    phrases = [
        f"{kind} {failure[kind]} failed on {failure['images']} of {counted(failure['of'], 'images')} ({failure['first']})"
        for failure in failures
        for kind in ("method", "metric")
        if kind in failure
    ]
    more = len(phrases) - FEW
    return "; ".join(phrases[:FEW]) + (f"; and {more} more, see `failures` in run.json" if more > 0 else "")
