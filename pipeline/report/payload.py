"""The data files of a report: JavaScript that hands JSON to the page, as a page opened from disk may load scripts and nothing else.

n shown images in their order, k cells (method, target)
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report.pictures import Thumbnail

if TYPE_CHECKING:
    import duckdb

CHUNK = 16  # images in a file of maps and pictures
NOT_METRICS = {"image_id", "model", "method", "target", "class_id", "label", "label_name", "reasons", "place"}


def script(name: str, content: Any) -> bytes:
    """A file that hands `content` to the page as `name`."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return f"atlas.receive({json.dumps(name)},{text});\n".encode()


def encoded(values: np.ndarray) -> str:
    """The bytes of an array in base64: numbers of several bytes with the least one first."""
    return base64.b64encode(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()).decode()


def cells(connection: "duckdb.DuckDBPyConnection") -> list[tuple[str, str]]:
    """The methods and targets of the maps, in the order in which data files have them."""
    return connection.execute("SELECT DISTINCT method, target FROM maps ORDER BY ALL").fetchall()


def metric_columns(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """The columns of single images in `metrics`; none where the run has no metrics."""
    rows = connection.execute("SELECT column_name FROM duckdb_columns() WHERE schema_name = 'main' AND table_name = 'metrics'").fetchall()
    return sorted(name for (name,) in rows if name not in NOT_METRICS)


def images(connection: "duckdb.DuckDBPyConnection", tables: Sequence[str]) -> dict[str, list]:
    """Columns about the shown images, each [n]; those of predictions only where the run has them."""
    predicted = "predictions" in tables
    of_predictions = ", predicted, label_prob, predicted_prob, top5" if predicted else ""
    rows = connection.execute(
        f"SELECT s.image_id, i.label, i.label_name, i.split, i.width, i.height, i.boxes{of_predictions} FROM shown s "
        f"JOIN images i USING (image_id) {'LEFT JOIN predictions USING (image_id)' * predicted} ORDER BY place"
    )
    names = [column[0] for column in rows.description]
    columns = {name: list(values) for name, values in zip(names, zip(*rows.fetchall(), strict=True), strict=True)}
    columns["boxes"] = [[[short(box[side]) for side in ("x0", "y0", "x1", "y1")] for box in boxes or ()] for boxes in columns["boxes"]]
    for name in {"label_prob", "predicted_prob"} & columns.keys():
        columns[name] = [short(value) for value in columns[name]]
    if predicted:
        columns["top5"] = [[[entry["class_id"], short(entry["prob"])] for entry in top5 or ()] for top5 in columns["top5"]]
    return columns


def likeness(connection: "duckdb.DuckDBPyConnection", cells: Sequence[tuple[str, str]], count: int) -> dict[str, list[float | None]]:
    """How alike a map is to that of the same method for the label on each shown image: number of the cell -> cosines [n]."""
    rows = connection.execute(
        "SELECT m.method, m.target, place, list_cosine_similarity(map_floats(m), map_floats(l)) FROM maps m JOIN shown USING (image_id) "
        "JOIN maps l ON l.image_id = m.image_id AND l.method = m.method AND l.target = 'label' AND l.height = m.height AND l.width = m.width "
        "WHERE m.target NOT IN ('label', 'none')"
    )
    of_cell: dict[str, list[float | None]] = {}
    for method, target, place, cosine in rows.fetchall():
        values = of_cell.setdefault(str(cells.index((method, target))), [None] * count)
        values[place] = None if cosine is None or not np.isfinite(cosine) else float(f"{cosine:.5g}")
    return of_cell


def metric_values(connection: "duckdb.DuckDBPyConnection", cell: tuple[str, str], columns: Sequence[str], count: int) -> dict[str, Any]:
    """The metrics of one cell: column -> float32 [n] in base64, NaN where there is none; and `reasons`: column -> reason -> places."""
    names = ", ".join(f'm."{column}"' for column in columns)
    parameters = {"method": cell[0], "target": cell[1]}
    rows_of_cell = "FROM metrics m JOIN shown USING (image_id) WHERE method = $method AND target = $target"
    rows = connection.execute(f"SELECT place, {names} {rows_of_cell}", parameters).fetchnumpy()
    content: dict[str, Any] = {}
    for column in columns:
        values = np.full(count, np.nan, np.float32)
        values[rows["place"]] = np.ma.filled(np.ma.masked_invalid(rows[column].astype(np.float32)), np.nan)
        content[column] = encoded(values)
    reasons: dict[str, dict[str, list[int]]] = {}
    question = f"SELECT place, unnest(map_entries(reasons)) AS entry {rows_of_cell} AND len(map_keys(reasons)) > 0 ORDER BY place"
    for place, entry in connection.execute(question, parameters).fetchall():
        reasons.setdefault(entry["key"], {}).setdefault(entry["value"], []).append(place)
    return {**content, "reasons": reasons}


def entries(rows: "duckdb.DuckDBPyRelation", numbers: Mapping[tuple[str, str], int]) -> Iterator[tuple[dict, list]]:
    """Rows of maps without their levels, and each map as data files have it.

    That is [cell, class_id, reference_ids, gamma, height, width, map_min, map_max, render, levels in base64].
    """
    for batch in rows.to_arrow_reader(4096):
        levels = batch.column("map")
        for row, values in zip(batch.drop_columns(["map"]).to_pylist(), levels, strict=True):
            entry = [numbers[row["method"], row["target"]], row["class_id"], row.get("reference_ids") or [], short(row.get("gamma"))]
            entry += [row["height"], row["width"], short(row["map_min"]), short(row["map_max"]), row["render"]]
            yield row, [*entry, encoded(values.values.to_numpy(zero_copy_only=False).astype(np.uint8))]


class Maps:
    """The maps and metrics of the shown images, an image at a time."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", cells: Sequence[tuple[str, str]], columns: Sequence[str]):
        self.of_place: dict[int, list[list]] = {}
        self.scores_of_place: dict[int, dict[int, dict]] = {}
        numbers = {cell: number for number, cell in enumerate(cells)}
        self._read_maps(connection, numbers)
        if columns:
            self._read_scores(connection, numbers, columns)

    def _read_maps(self, connection: "duckdb.DuckDBPyConnection", numbers: Mapping[tuple[str, str], int]) -> None:
        rows = connection.sql(
            "SELECT place, method, target, class_id, reference_ids, gamma, height, width, map_min, map_max, render, map "
            "FROM maps JOIN shown USING (image_id) ORDER BY place, method, target"
        )
        for row, entry in entries(rows, numbers):
            self.of_place.setdefault(row["place"], []).append(entry)

    def _read_scores(self, connection: "duckdb.DuckDBPyConnection", numbers: Mapping[tuple[str, str], int], columns: Sequence[str]) -> None:
        """Values with their place in the run: the share of the cell's images whose value is at most this one, in percent."""
        ranks = ", ".join(
            f'cume_dist() OVER (PARTITION BY method, target, m."{column}" ISNULL ORDER BY m."{column}") AS "rank {column}"'
            for column in columns
        )
        rows = connection.sql(
            f"WITH ranked AS (SELECT m.*, {ranks} FROM metrics m) SELECT * FROM ranked JOIN shown USING (image_id) ORDER BY place"
        )
        for batch in rows.to_arrow_reader(4096):
            for row in batch.to_pylist():
                scores = {column: [short(row[column]), round(100 * row[f"rank {column}"])] for column in columns if row[column] is not None}
                reasons = dict(row["reasons"] or ())
                self.scores_of_place.setdefault(row["place"], {})[numbers[row["method"], row["target"]]] = {
                    "scores": scores,
                    "reasons": {column: reasons[column] for column in columns if column in reasons},
                }

    def chunk(self, start: int, image_ids: Sequence[str], thumbnails: Mapping[str, Thumbnail]) -> list[dict]:
        """What a data file says of the images at start <= place < start + CHUNK."""
        return [
            {
                "maps": self.of_place.get(place, []),
                "scores": self.scores_of_place.get(place, {}),
                **picture(thumbnails.get(image_ids[place])),
            }
            for place in range(start, min(start + CHUNK, len(image_ids)))
        ]


def picture(thumbnail: Thumbnail | None) -> dict:
    """What a data file says of an image's thumbnail; nothing where there is none."""
    if thumbnail is None:
        return {}
    points = {name: [round(x, 4), round(y, 4)] for name, (x, y) in thumbnail.points.items()}
    return {"picture": f"data:image/jpeg;base64,{base64.b64encode(thumbnail.jpeg).decode()}", "points": points}


def short(value: float | None) -> float | None:
    """A number of 32 bits in as few digits as give it back; None for what is no finite number."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.9g}")
