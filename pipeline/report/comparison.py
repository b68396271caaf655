"""Two runs beside each other: the numbers that `atlas compare` has found between them, and the maps that moved most."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import storage
from pipeline.refusal import Refusal
from pipeline.report import payload, pictures
from pipeline.tables import files, read

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.tables.read import Run

MOST_MOVED = 24  # maps that are shown side by side
KINDS = ("metrics", "predictions", "inputs")  # of numbers, in the order of their tables


@dataclass(frozen=True)
class Comparison:
    """A run and an earlier one, as their tables `drift` and `moved` have them: numbers over all images, settings, and maps side by side."""

    before: str
    verdict: str
    numbers: Mapping[str, Sequence[Mapping]]  # kind -> rows of `drift`
    likeness: Mapping[tuple[str, str], Mapping[str, Mapping]]  # method, target -> quantity -> row of `drift` about maps
    versions: Sequence[Mapping]
    moved: Sequence[Mapping[str, Any]]

    @staticmethod
    def of(now: "Run", against: str, cells: Sequence[tuple[str, str]]) -> "Comparison":
        """The comparison of a run with another: a run id, a published name, or `previous`.

        Raises:
            Refusal: where there is no such run, or the two have not been compared.
        """
        before = read.find(now.out, against, now)
        folder = storage.join(now.out, "drift", now.run_id, before.run_id)
        try:
            drift, moved = (files.read_parquet(storage.join(folder, f"{name}.parquet")) for name in ("drift", "moved"))
            verdict = json.loads(storage.read_bytes(storage.join(folder, "verdict.json")))["verdict"]
        except FileNotFoundError as error:
            raise Refusal(
                f"--against {against}: the runs have not been compared; atlas compare --out {now.out} {now.run_id} {before.run_id} does it"
            ) from error
        rows = [row for row in drift.to_pylist() if row["scope"] == "all"]
        numbers = {kind: of_kind for kind in KINDS if (of_kind := [row for row in rows if row["kind"] == kind])}
        likeness: dict[tuple[str, str], dict[str, Mapping]] = {}
        for row in rows:
            if row["kind"] == "maps":
                likeness.setdefault((row["method"], row["target"]), {})[row["quantity"]] = row
        versions = [row for row in drift.to_pylist() if row["kind"] == "versions"]
        return Comparison(before.run_id, verdict, numbers, likeness, versions, _moved(now, before, moved, cells))

    def with_pictures(self, thumbnails: Mapping[str, pictures.Thumbnail]) -> list[dict]:
        """The maps that moved most, with the pictures of their images: content of a data file."""
        return [{**row, **payload.picture(thumbnails.get(row["image_id"]))} for row in self.moved]


def _moved(now: "Run", before: "Run", moved: "pa.Table", cells: Sequence[tuple[str, str]]) -> list[dict]:
    """The maps that moved most in both runs: {image_id, spearman, ssim, now, before}, those of the least correlation first."""
    rows = [row for row in moved.to_pylist() if (row["method"], row["target"]) in cells]
    rows.sort(key=lambda row: (row["spearman"] is None, row["spearman"], row["image_id"], row["method"], row["target"]))
    shown = rows[:MOST_MOVED]
    maps = [_maps(run, shown, cells) for run in (now, before)]
    keys = [(row["image_id"], row["method"], row["target"]) for row in shown]
    return [
        {
            "image_id": key[0],
            "spearman": payload.short(row["spearman"]),
            "ssim": payload.short(row["ssim"]),
            "now": maps[0][key],
            "before": maps[1][key],
        }
        for key, row in zip(keys, shown, strict=True)
        if key in maps[0] and key in maps[1]
    ]


def _maps(run: "Run", rows: Sequence[Mapping], cells: Sequence[tuple[str, str]]) -> dict[tuple[str, str, str], list]:
    """Maps of a run as data files have them, by image, method and target."""
    import pyarrow as pa

    numbers = {cell: number for number, cell in enumerate(cells)}
    names = ("image_id", "method", "target")
    with run.connect() as connection:
        connection.register("asked", pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names}))
        found = connection.sql("SELECT maps.* FROM maps JOIN asked USING (image_id, method, target)")
        return {(row["image_id"], row["method"], row["target"]): entry for row, entry in payload.entries(found, numbers)}
