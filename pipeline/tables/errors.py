"""The errors table: which stage failed, for which image or shard, and why."""

import pyarrow as pa

from pipeline.tables import schema


def deduplicate(errors: pa.Table) -> pa.Table:
    """Errors without repetitions, sorted."""
    distinct = errors.group_by(errors.column_names).aggregate([]).select(errors.column_names)
    return distinct.sort_by([(name, "ascending") for name in errors.column_names]).cast(schema.ERRORS)
