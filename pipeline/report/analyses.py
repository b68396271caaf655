"""The tables that analyses add to a run, as the report shows them; one that a run does not have is left out."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report import payload

if TYPE_CHECKING:
    import duckdb

TABLES = ("agreement", "disagreement", "class_sensitivity_summary", "background_summary", "mean_maps", "aggatt")


def agreement(connection: "duckdb.DuckDBPyConnection", tables: Collection[str], target: str) -> dict[str, dict[str, float]]:
    """How far the maps of two methods agree for a target: method -> method -> the mean over images of Spearman's correlation."""
    if "agreement" not in tables:
        return {}
    rows = connection.execute(
        "SELECT a, b, mean FROM agreement WHERE kind = 'methods' AND target = $target ORDER BY ALL", {"target": target}
    )
    matrix: dict[str, dict[str, float]] = {}
    for one, other, mean in rows.fetchall():
        for method in (one, other):
            matrix.setdefault(method, {})[method] = 1.0
        matrix[one][other] = matrix[other][one] = mean
    return dict(sorted(matrix.items()))


def disagreement(connection: "duckdb.DuckDBPyConnection", tables: Collection[str], target: str, count: int) -> list[float | None]:
    """How far the methods disagree on each shown image [n].

    By the table `disagreement`; without it, the root mean square distance of two methods' peaks, as a share of the side.
    """
    if "disagreement" in tables:
        question = "SELECT place, disagreement FROM disagreement JOIN shown USING (image_id) WHERE target = $target"
    else:
        question = (
            "SELECT place, round(sqrt(2 * (var_samp(peak_x) + var_samp(peak_y))), 6) FROM maps JOIN shown USING (image_id) "
            "WHERE target IN ('none', $target) AND method NOT IN ('random', 'fake_cam') AND map_max > map_min "
            "GROUP BY place HAVING count(*) > 1"
        )
    of_place = dict(connection.execute(question, {"target": target}).fetchall())
    return [payload.short(of_place.get(place)) for place in range(count)]


def class_means(connection: "duckdb.DuckDBPyConnection", tables: Collection[str], method: str, target: str) -> dict[str, dict[str, list]]:
    """Means of analyses over the images of each class: words -> class -> [mean, ci_low, ci_high]."""
    questions = {
        "background_summary": "SELECT CASE number WHEN 'area' THEN 'area outside the boxes' ELSE number || ' the boxes' END, scope, "
        "mean, ci_low, ci_high FROM background_summary WHERE method = $method AND target = $target",
        "class_sensitivity_summary": "SELECT number || ' to label', scope, mean, ci_low, ci_high "
        "FROM class_sensitivity_summary WHERE method = $method AND a = 'label' AND b = $target",
    }
    means: dict[str, dict[str, list]] = {}
    for table, question in questions.items():
        if table in tables:
            rows = connection.execute(f"{question} AND scope != 'all' AND mean NOTNULL ORDER BY ALL", {"method": method, "target": target})
            for words, scope, *numbers in rows.fetchall():
                means.setdefault(words, {})[scope] = [payload.short(number) for number in numbers]
    return means


def mean_maps(
    connection: "duckdb.DuckDBPyConnection", cells: Sequence[tuple[str, str]], classes: Sequence[int], room: float
) -> tuple[list[dict[str, dict[str, list]]], int]:
    """Mean maps of classes, the first of `classes` first, as far as there is `room` bytes for them; and how many classes have them.

    Of each cell: class -> subset (all, right, wrong) -> [images, map].
    """
    numbers = {cell: number for number, cell in enumerate(cells)}
    rows = connection.sql("SELECT * FROM mean_maps WHERE n > 0 ORDER BY class_id, method, target, subset")
    of_class: dict[int, list[tuple[dict, list]]] = {}
    for row, entry in payload.entries(rows, numbers):
        of_class.setdefault(row["class_id"], []).append((row, entry))
    files: list[dict[str, dict[str, list]]] = [{} for _ in cells]
    shown = 0
    for class_id in classes:
        room -= sum(len(entry[-1]) + 100 for _, entry in of_class.get(class_id, ()))
        if room < 0:
            break
        shown += 1
        for row, entry in of_class.get(class_id, ()):
            files[entry[0]].setdefault(str(class_id), {})[row["subset"]] = [row["n"], entry]
    return files, shown


def aggatt(connection: "duckdb.DuckDBPyConnection", cells: Sequence[tuple[str, str]]) -> list[Mapping]:
    """The bins of AggAtt: {metric, cell, low, high, mean, ci_low, ci_high, n, examples, colour_max, map}, in order."""
    numbers = {cell: number for number, cell in enumerate(cells)}
    rows = connection.sql("SELECT *, NULL::INT AS class_id FROM aggatt ORDER BY metric, method, target, bin")
    plain = ("metric", "n", "examples")
    return [
        {
            "cell": entry[0],
            "map": entry,
            **{name: row[name] for name in plain},
            **{name: _number(row[name]) for name in ("low", "high", "mean", "ci_low", "ci_high", "colour_max")},
        }
        for row, entry in payload.entries(rows, numbers)
    ]


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value
