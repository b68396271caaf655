"""A run with tables of analyses, written by hand with the columns that docs/reference/tables.md names."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables

METHODS, CLASSES, BINS = ("eigen_cam", "grad_cam", "layer_cam"), range(5), ((0.0, 0.1), (0.1, 0.9), (0.9, 1.0))


def map_of(seed: int, side: int = 4) -> dict:
    """The columns of a map by chance."""
    levels = np.random.default_rng(seed).integers(0, 256, side * side).tolist()
    return {"height": side, "width": side, "map": levels, "map_min": 0.0, "map_max": 1.0, "render": "bilinear"}


def rows(image_ids: list[str]) -> dict[str, list[dict]]:
    """The rows of every table."""
    pairs = [(a, b) for a in METHODS for b in METHODS if a < b]
    cells = [("grad_cam", "label"), ("grad_cam", "finer"), ("eigen_cam", "none")]
    interval = {"ci_low": 0.1, "ci_high": 0.9}
    return {
        "agreement": [
            {"kind": kind, "target": "label", "a": a, "b": b, "mean": 0.25 * i + (kind == "metrics")}
            for kind in ("methods", "metrics")
            for i, (a, b) in enumerate(pairs)
        ],
        "disagreement": [
            {"image_id": name, "target": target, "disagreement": None if i == 3 else (7 * i % 40) / 40 + (target == "finer")}
            for i, name in enumerate(image_ids)
            for target in ("label", "finer")
        ],
        "background_summary": [
            {"method": method, "target": target, "number": number, "scope": scope, "mean": 0.5, **interval}
            for method, target in cells
            for number in ("outside", "area")
            for scope in ("all", *map(str, CLASSES))
        ],
        "class_sensitivity_summary": [
            {"method": "grad_cam", "a": "label", "b": "finer", "number": "spearman", "scope": str(c), "mean": c / 10, **interval}
            for c in CLASSES
        ],
        "mean_maps": [
            {"method": method, "target": target, "class_id": c, "subset": subset, "n": n, **map_of(10 * c + n)}
            for method, target in cells
            for c in CLASSES
            for subset, n in (("all", 8), ("right", 3), ("wrong", 5))
        ],
        "aggatt": [
            {
                **{"method": method, "target": target, "metric": "energy", "bin": i, "low": low, "high": high, "mean": 0.9 - low, "n": 4},
                **{"ci_low": None, "ci_high": None, "examples": image_ids[i : i + 2], "colour_max": 0.8, **map_of(i)},
            }
            for method, target in cells
            for i, (low, high) in enumerate(BINS)
        ],
    }


def publish(run: tables.Run, folder: Path) -> str:
    """A copy of a published run with these tables beside its own; returns its `out`."""
    shutil.copytree(run.out, folder, dirs_exist_ok=True)
    place, manifest = folder / "runs" / run.run_id, json.loads(json.dumps(run.manifest))
    for table, content in rows(sorted(run.table("images").column("image_id").to_pylist())).items():
        (place / table).mkdir()
        pq.write_table(pa.Table.from_pylist(content), place / table / "a.parquet")
        manifest["files"].append({"table": table, "path": f"{table}/a.parquet", "rows": len(content), "bytes": 0})
    (place / "run.json").write_text(json.dumps(manifest))
    return str(folder)
