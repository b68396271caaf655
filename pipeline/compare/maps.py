"""The maps of two runs, image by image: the share that moved, how alike they still are, and the images whose maps moved most."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.compare.scopes import Scopes, mean_rows, share_rows
from pipeline.maps import similarity
from pipeline.tables import schema

if TYPE_CHECKING:
    import duckdb

ROWS_AT_ONCE = 4096
QUANTITIES = ("spearman", "ssim", "relative_distance")
MEASURES = (similarity.spearman, similarity.structural_similarity, similarity.relative_distance)
SAME = (1.0, 1.0, 0.0)  # of two maps that are the same
_STORED = "map, map_min, map_max, height, width, render"
_ALIKE = " AND ".join(f"n.{name} IS NOT DISTINCT FROM b.{name}" for name in _STORED.split(", "))
_FROM = """now.maps n JOIN before.maps b USING (image_id, method, target) LEFT JOIN now.images i USING (image_id)
WHERE n.method = $method AND n.target = $target"""
_PAIRS = f"SELECT image_id, i.label, ({_ALIKE}) AS alike FROM {_FROM} ORDER BY image_id"
_OTHERS = f"""
SELECT image_id, struct_pack({", ".join(f"{name} := n.{name}" for name in _STORED.split(", "))}) AS now,
    struct_pack({", ".join(f"{name} := b.{name}" for name in _STORED.split(", "))}) AS before
FROM {_FROM} AND NOT ({_ALIKE}) ORDER BY image_id
"""
_KINDS = "SELECT DISTINCT method, target FROM now.maps JOIN (SELECT DISTINCT method, target FROM before.maps) USING (method, target) ORDER BY ALL"


def compare_maps(connection: "duckdb.DuckDBPyConnection", top: int) -> tuple[list[dict], pa.Table]:
    """Rows of `drift` about the maps of every method and target that both runs have, and `moved`: the `top` images of each that moved most."""
    rows, moved = [], [schema.MOVED.empty_table()]
    for method, target in connection.execute(_KINDS).fetchall():
        names = {"method": method, "target": target}
        pairs = connection.sql(_PAIRS, params=names).to_arrow_table()
        images, scopes = pairs["image_id"].to_numpy(), Scopes.of(pairs["label"])
        has_moved, alike = _likenesses(connection, names, pairs)
        kind = {"kind": "maps", **names}
        rows += [{**kind, **row} for row in share_rows("moved", has_moved, scopes)]
        rows += [{**kind, **row} for row in mean_rows(QUANTITIES, alike, images, scopes)]
        moved.append(_most_moved(names, images, has_moved, alike, top))
    return rows, pa.concat_tables(moved)


def _likenesses(connection: "duckdb.DuckDBPyConnection", names: dict[str, str], pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair of maps whether it moved [N], and `QUANTITIES` [3 N]; only pairs that are not the same byte by byte are read."""
    has_moved, alike = np.zeros(pairs.num_rows), np.repeat(np.array(SAME)[:, None], pairs.num_rows, 1)
    others = np.flatnonzero(~pairs["alike"].to_numpy(zero_copy_only=False))
    start = 0
    for batch in connection.sql(_OTHERS, params=names).to_arrow_reader(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            one, other = similarity.on_one_grid(row["now"], row["before"])
            has_moved[others[start]] = similarity.moved(one, other)
            alike[:, others[start]] = [measure(one, other) for measure in MEASURES]
            start += 1
    return has_moved, alike


def _most_moved(names: dict[str, str], images: np.ndarray, has_moved: np.ndarray, alike: np.ndarray, top: int) -> pa.Table:
    order = np.lexsort((images, -alike[-1]))
    rows = [
        {
            "image_id": images[i],
            **names,
            **{q: number if np.isfinite(number) else None for q, number in zip(QUANTITIES, alike[:, i], strict=True)},
        }
        for i in order[:top]
        if has_moved[i]
    ]
    return pa.Table.from_pylist(rows, schema.MOVED)
