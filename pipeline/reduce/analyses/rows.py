"""The rows of published tables as analyses read them: a file after the other, a batch after the other."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.tables import schema

BATCH = 1024  # rows in memory at once


@dataclass(frozen=True)
class Rows:
    """The rows of one table in some of its files, each the entry of a manifest, found at its url; those of one method where it is named."""

    table: str
    files: Sequence[tuple[dict, str]]
    method: str | None = None

    def batches(self, *columns: str, keep: pa.Array | None = None) -> Iterator[pa.Table]:
        """Columns of the rows, file by file; those that a file lacks are left out.

        Parameters:
            keep: the ids of the images whose rows are read; a file that has none of them is opened for its ids alone.
        """
        partition = schema.PARTITIONED.get(self.table)
        for entry, url in self.files:
            file = pq.ParquetFile(io.BytesIO(storage.read_bytes(url)))
            if keep is not None and not pc.any(pc.is_in(file.read(["image_id"])["image_id"], keep)).as_py():
                continue
            names = file.schema_arrow.names
            chosen = ["method"] if self.method is not None and "method" in names else []
            for batch in file.iter_batches(BATCH, columns=[name for name in dict.fromkeys([*columns, *chosen]) if name in names]):
                rows = pa.Table.from_batches([batch])
                if keep is not None:
                    rows = rows.filter(pc.is_in(rows["image_id"], keep))
                if chosen:
                    rows = rows.filter(pc.equal(rows["method"], self.method))
                if partition in columns:
                    rows = rows.append_column(partition, pa.array([_value(entry)] * rows.num_rows, pa.string()))
                if rows.num_rows:
                    yield rows.select([name for name in columns if name in rows.column_names])

    def read(self, *columns: str) -> pa.Table:
        """Columns of all rows at once; null where a file lacks one, and no row where there is no file."""
        batches = [*self.batches(*columns)]
        return pa.concat_tables(batches, promote_options="default") if batches else pa.table({column: pa.array([]) for column in columns})

    def by_partition(self) -> dict[str, "Rows"]:
        """The rows of each value of the column that only the folders' names hold, by that value."""
        values = sorted({_value(entry) for entry, _ in self.files})
        return {value: replace(self, files=[file for file in self.files if _value(file[0]) == value]) for value in values}

    @property
    def columns(self) -> list[str]:
        """The names of the columns, which all files of a run's table share; none where there is no file."""
        return pq.read_schema(io.BytesIO(storage.read_bytes(self.files[0][1]))).names if self.files else []


def _value(entry: dict) -> str:
    """The value of the column that only the folder's name holds."""
    return entry["path"].split("/")[1].partition("=")[2]
