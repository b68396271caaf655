"""Images chosen by a SQL condition over their predictions."""

import pyarrow as pa

from pipeline.refusal import Refusal


def selected(condition: str, predictions: pa.Table) -> list[str]:
    """Image ids for which the SQL condition over the columns of `predictions` holds.

    Raises:
        Refusal: where the condition is no SQL condition over those columns.
    """
    import duckdb

    with duckdb.connect(config={"enable_external_access": False}) as connection:
        connection.register("predictions", predictions)
        try:
            return [row[0] for row in connection.execute(f"SELECT image_id FROM predictions WHERE ({condition})").fetchall()]
        except duckdb.Error as error:
            columns = ", ".join(predictions.column_names)
            raise Refusal(f"--select {condition!r}: {str(error).splitlines()[0]}; the columns are {columns}") from error
