"""The rows of published tables as analyses read them: a file after the other, a batch after the other."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.tables import schema

BATCH = 1024  # rows in memory at once


@dataclass(frozen=True)
class Rows:
    """The rows of one table in some of its files, each the entry of a manifest, found at its url."""

    table: str
    files: Sequence[tuple[dict, str]]

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
            present = [column for column in columns if column in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH, columns=present):
                rows = pa.Table.from_batches([batch])
                if keep is not None:
                    rows = rows.filter(pc.is_in(rows["image_id"], keep))
                if partition in columns:
                    rows = rows.append_column(partition, pa.array([_value(entry)] * rows.num_rows, pa.string()))
                if rows.num_rows:
                    yield rows

    def read(self, *columns: str) -> pa.Table:
        """Columns of all rows at once; null where a file lacks one, and no row where there is no file."""
        batches = [*self.batches(*columns)]
        return pa.concat_tables(batches, promote_options="default") if batches else pa.table({column: pa.array([]) for column in columns})

    @property
    def columns(self) -> list[str]:
        """The names of the columns that any file has."""
        names: dict[str, None] = {}
        for _, url in self.files:
            names |= dict.fromkeys(pq.read_schema(io.BytesIO(storage.read_bytes(url))).names)
        return [*names]


def _value(entry: dict) -> str:
    """The value of the column that only the folder's name holds."""
    return entry["path"].split("/")[1].partition("=")[2]
