"""A published run in Python: pyarrow datasets, and SQL over views of the same names."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline import storage
from pipeline.maps import render as rendering
from pipeline.maps.quantise import stored
from pipeline.refusal import Refusal, choose
from pipeline.tables import files, publish, schema
from pipeline.tables.lake.location import Location

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Run:
    """One published run below `out`. It reads exactly the files that its manifest (run.json) lists."""

    out: str
    run_id: str
    manifest: dict

    @property
    def location(self) -> Location:
        """Where its files lie."""
        return Location(self.out, self.run_id, self.manifest.get("lake"))

    @property
    def tables(self) -> list[str]:
        """The names of its tables."""
        return sorted({entry["table"] for entry in self.manifest["files"]})

    def dataset(self, table: str) -> ds.Dataset:
        """A table as a pyarrow dataset; `method` comes from the folder names."""
        choose(table, self.tables, "table")
        filesystem, root = storage.filesystem(self.location.folder(table))
        paths = [root + path.removeprefix(table) for path in self._paths(table)]
        column = schema.PARTITIONED.get(table)
        partitioning = ds.partitioning(pa.schema([(column, pa.string())]), flavor="hive") if column else None
        return ds.dataset(paths, filesystem=filesystem, format="parquet", partitioning=partitioning, partition_base_dir=root)

    def table(self, name: str) -> pa.Table:
        """A whole table in memory."""
        return self.dataset(name).to_table()

    def connect(self) -> "duckdb.DuckDBPyConnection":
        """A DuckDB connection with one view per table; `pipeline.tables.sql` says what it has besides."""
        from pipeline.tables import sql

        return sql.connect({"now": self})

    def urls(self, table: str) -> list[str]:
        """The files of a table."""
        return [self.location.url(path) for path in self._paths(table)]

    def _paths(self, table: str) -> list[str]:
        return [entry["path"] for entry in self.manifest["files"] if entry["table"] == table]

    def sql(self, question: str) -> pa.Table:
        """The rows of one query. A column that a join has twice is there as `width` and `width_1`.

        Raises:
            Refusal: naming the columns of the tables in the query, where DuckDB does not accept it.
        """
        from pipeline.tables import sql

        with self.connect() as connection, sql.refusing(connection, question):
            rows = sql.query(connection, question).to_arrow_table()
        seen: Counter[str] = Counter()
        names = []
        for name in rows.column_names:
            names.append(f"{name}_{seen[name]}" if seen[name] else name)
            seen[name] += 1
        return rows.rename_columns(names)

    def show(self, question: str) -> None:
        """Print the rows of one query as a table; raises as `sql` does."""
        from pipeline.tables import sql

        with self.connect() as connection, sql.refusing(connection, question):
            sql.show(sql.query(connection, question))


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


def find(out: str, word: str, now: Run | None = None) -> Run:
    """The run that a word means: a published name, a run id, `previous` (the run before `now`), or PLACE#WORD for one below another folder.

    Raises:
        Refusal: where there is none.
    """
    place, mark, inner = word.rpartition("#")
    if mark:
        return find(place, inner or "default")
    if word == "previous" and now:
        if not now.manifest.get("previous"):
            raise Refusal(f"{now.run_id} is the first run of its name, so there is none before it")
        return open(now.out, run_id=now.manifest["previous"])
    names = publish.current(out)
    try:
        return open(out, run_id=names.get(word, word))
    except Refusal as error:
        raise Refusal(f"{word!r} is neither a run below {out} nor published there; published is {', '.join(names) or 'nothing'}") from error


def last(out: str, name: str = "default") -> Run:
    """The run that the last job of a name has finished, published or not: its table `errors` says what failed, also where all did.

    Raises:
        Refusal: where no job of that name has come so far.
    """
    paths = [path.split("/") for path in files.below(storage.join(out, "runs"))]
    for run_id in sorted((run_id for run_id, *path in paths if path == ["run.json"]), reverse=True):  # ids begin with the time
        run = Run(out, run_id, publish.read_manifest(out, run_id))
        if run.manifest["job"]["name"] == name:
            return run
    raise Refusal(f"no job named {name!r} has finished a run below {out}; atlas status --out {out} says how far jobs have come")


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
