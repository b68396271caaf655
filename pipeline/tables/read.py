"""A published run in Python: pyarrow datasets, and SQL over views of the same names."""

from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline import storage
from pipeline.maps import render as rendering
from pipeline.maps.quantise import stored
from pipeline.refusal import Refusal, choose
from pipeline.tables import publish, schema


@dataclass(frozen=True)
class Run:
    """One published run below `out`. It reads exactly the files that its manifest (run.json) lists."""

    out: str
    run_id: str
    manifest: dict

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""
        return sorted({entry["table"] for entry in self.manifest["files"]})

    def dataset(self, table: str) -> ds.Dataset:
        """A table as a pyarrow dataset; `method` comes from the folder names."""
        choose(table, self.tables, "table")
        filesystem, root = storage.filesystem(storage.join(self.out, "runs", self.run_id))
        paths = [f"{root}/{path}" for path in self._paths(table)]
        column = schema.PARTITIONED.get(table)
        partitioning = ds.partitioning(pa.schema([(column, pa.string())]), flavor="hive") if column else None
        return ds.dataset(paths, filesystem=filesystem, format="parquet", partitioning=partitioning, partition_base_dir=f"{root}/{table}")

    def table(self, name: str) -> pa.Table:
        """A whole table in memory."""
        return self.dataset(name).to_table()

    def connect(self):
        """A DuckDB connection with one view per table."""
        import duckdb

        connection, local = duckdb.connect(), storage.is_local(self.out)
        if not local:
            connection.register_filesystem(storage.filesystem(self.out)[0])
        for name in self.tables:
            paths = [storage.join(self.out, "runs", self.run_id, path).replace("'", "''") for path in self._paths(name)]
            # A local name is looked up before it is taken for a pattern, that of a store is not.
            literals = ", ".join(f"'{path if local else escape(path)}'" for path in paths)
            connection.execute(f"CREATE VIEW {name} AS FROM read_parquet([{literals}], hive_partitioning = {name in schema.PARTITIONED})")
        return connection

    def _paths(self, table: str) -> list[str]:
        return [entry["path"] for entry in self.manifest["files"] if entry["table"] == table]

    def sql(self, query: str) -> pa.Table:
        """The rows of one query."""
        with self.connect() as connection:
            return connection.sql(query).to_arrow_table()


def open(out: str, name: str = "default", run_id: str | None = None) -> Run:
    """The run published under `name`, or any other run by its id.

    Raises:
        Refusal: where nothing is published there.
    """
    if run_id is None:
        names = publish.current(out)
        if not names:
            raise Refusal(f"nothing is published below {out}; run jobs.explain with --out {out} first")
        run_id = names[choose(name, names, "published name")]
    try:
        return Run(out, run_id, publish.read_manifest(out, run_id))
    except FileNotFoundError as error:
        raise Refusal(f"there is no run {run_id!r} below {out}") from error


def render(row: Mapping, size: tuple[int, int] = (224, 224)) -> np.ndarray:
    """A row of `maps` as the image [H W] in [0, 1] that metrics see: upsampled to `size` by its `render`, then scaled from min to max."""
    import torch

    return rendering.unit(rendering.upsample(torch.from_numpy(stored(row))[None], (size[0], size[1]), row["render"])[0].numpy())


def overlay(row: Mapping, image, strength: float = 0.5):
    """A row of `maps` drawn over its picture: a PIL image of the picture's size, hot where the map is high.

    `image` is a PIL image or uint8 [H W 3]; `strength` is the colour's share where the map is 1.
    """
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    heat = render(row, pixels.shape[:2])[..., None]
    colour = 255 * np.clip(np.concatenate([1.5 - abs(4 * heat - 3), 1.5 - abs(4 * heat - 2), 1.5 - abs(4 * heat - 1)], -1), 0, 1)
    return Image.fromarray(np.rint(pixels * (1 - strength * heat) + colour * strength * heat).astype(np.uint8))
