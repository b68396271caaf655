"""How long a report takes to write, to open, and to show an image: of 10,000 images, 10 methods and 2 targets.

python -m tests.bench.report 10000

Maps, metrics and pictures are drawn by chance and published as a job would publish them. A browser (Chromium, by playwright) opens the report from disk.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.job import Report
from pipeline.report.write import write
from pipeline.tables import files, schema
from tests.report.browser import path_of_chromium
from tests.shards import encoded, picture, tar_bytes

METHODS, TARGETS, METRICS, CLASSES, GRID = 10, ("label", "finer"), ("deletion", "energy", "insertion", "pointing"), 100, 14
SHARD = 1000


def tables(images: int) -> Iterator[tuple[str, str, pa.Table]]:
    """Every table of a run by chance: its name, its path and its rows."""
    rng = np.random.default_rng(0)
    ids = [f"{i // SHARD:05}.tar/{i:08}" for i in range(images)]
    labels, box = rng.integers(0, CLASSES, images), {"x0": 0.2, "y0": 0.2, "x1": 0.8, "y1": 0.8}
    plain = {"image_id": ids, "shard": [name.split("/")[0] for name in ids], "key": [name.split("/")[1] for name in ids]}
    names = [f"class {label}" for label in labels]
    sizes = {"width": [64] * images, "height": [64] * images, "split": ["val"] * images, "has_mask": [False] * images}
    of_images = {**plain, **sizes, "label": labels, "label_name": names, "boxes": [[box]] * images}
    yield "images", "images/a.parquet", pa.table({name: of_images[name] for name in schema.IMAGES.names}, schema.IMAGES)
    of_predictions = {"image_id": ids, "model": ["m"] * images, "label": labels, "predicted": rng.integers(0, CLASSES, images)}
    probabilities = {name: rng.random(images) for name in ("label_logit", "label_prob", "predicted_prob")}
    top5 = [[{"class_id": i, "prob": 0.2} for i in range(5)]] * images
    logits = [[0.0] * CLASSES] * images
    form = schema.predictions(CLASSES)
    content = {**of_predictions, **probabilities, "top5": top5, "logits": logits}
    yield "predictions", "predictions/a.parquet", pa.table({name: content[name] for name in form.names}, form)
    for number in range(METHODS):
        method = f"method_{number}"
        maps = pa.concat_tables(_maps(rng, ids, labels, target) for target in TARGETS).sort_by("image_id")
        yield "maps", f"maps/method={method}/a.parquet", maps
        yield "metrics", f"metrics/method={method}/a.parquet", pa.concat_tables(_metrics(rng, ids, labels, target) for target in TARGETS)
    rows = [
        {
            "model": "m",
            "method": f"method_{m}",
            "target": target,
            "metric": metric,
            "scope": "all",
            "n": images,
            "mean": 0.5,
            "better": "higher",
        }
        for m in range(METHODS)
        for target in TARGETS
        for metric in METRICS
    ]
    yield "summary", "summary/a.parquet", pa.Table.from_pylist(rows, schema.SUMMARY)


def _maps(rng: np.random.Generator, ids: list[str], labels: np.ndarray, target: str) -> pa.Table:
    count = len(ids)
    levels = pa.FixedSizeListArray.from_arrays(pa.array(rng.integers(0, 256, count * GRID**2, dtype=np.int16)), GRID**2).cast(
        pa.list_(pa.int16())
    )
    numbers = {name: rng.random(count, dtype=np.float32) for name in ("mean", "entropy", "gini", "peak_x", "peak_y")}
    content = {
        **{"image_id": ids, "model": ["m"] * count, "target": [target] * count, "class_id": labels, "reference_ids": [[]] * count},
        **{"gamma": [None] * count, "height": [GRID] * count, "width": [GRID] * count, "map": levels},
        **{"map_min": [0.0] * count, "map_max": [1.0] * count, "render": ["bilinear"] * count, **numbers},
    }
    form = pa.schema([field for field in schema.MAPS if field.name != "method"])
    return pa.table({name: content[name] for name in form.names}, form)


def _metrics(rng: np.random.Generator, ids: list[str], labels: np.ndarray, target: str) -> pa.Table:
    count = len(ids)
    form = pa.schema([field for field in schema.metrics(METRICS) if field.name != "method"])
    content = {
        "image_id": ids,
        "model": ["m"] * count,
        "target": [target] * count,
        "class_id": labels,
        "label": labels,
        "reasons": [[]] * count,
    }
    content |= {metric: rng.random(count, dtype=np.float32) for metric in METRICS}
    return pa.table({name: content[name] for name in form.names}, form)


def publish(folder: Path, images: int) -> str:
    """A published run and its shards below `folder`; returns the `out` of the run."""
    run_id, listed = "20260101T000000000000Z-00000000", []
    for table, path, rows in tables(images):
        file = folder / "out" / "runs" / run_id / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, file, **schema.writing_options(rows.schema))
        listed.append({"table": table, "path": path, "bytes": file.stat().st_size, "rows": rows.num_rows})
    samples = [(f"{i:08}", {"jpg": encoded(picture(i % 50), "JPEG")}) for i in range(images)]
    shards = range(0, images, SHARD)
    for start in shards:
        (folder / f"{start // SHARD:05}.tar").write_bytes(tar_bytes(samples[start : start + SHARD]))
    prepare = {"size": [224, 224], "crop": "squash", "crop_pct": 1.0, "interpolation": "bicubic"}
    manifest = {
        "run_id": run_id,
        "files": listed,
        "backbone": {"name": "by/chance", "num_classes": CLASSES, "layer": "layer4", "image_size": [224, 224], "prepare": prepare},
        "job": {"name": "default", "source": [f"{folder}/*.tar"], "weights": None, "precision": "fp32", "seed": 0},
        "counts": {"images": images, "explained": images, "failed": 0, "errors": 0, "shards": len(shards), "shards_failed": 0},
        "methods": [{"name": f"method_{number}"} for number in range(METHODS)],
        "targets": [{"name": target} for target in TARGETS],
        "metrics": [{"name": metric, "stored": False} for metric in METRICS],
        "shards": [{"name": f"{start // SHARD:05}.tar", "images": SHARD} for start in shards],
        **{"passes": {}, "finished": "2026-01-01T00:00:00", "started": "2026-01-01T00:00:00", "seconds": 1.0, "previous": None},
    }
    files.write_json(f"{folder}/out/runs/{run_id}/run.json", manifest)
    files.write_json(f"{folder}/out/current.json", {"default": run_id})
    return f"{folder}/out"


def shown(folder: Path, count: int = 20) -> tuple[float, list[float]]:
    """Seconds from the address to the first page, and to each of some image cards after it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path_of_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.perf_counter()
        page.goto((folder / "index.html").as_uri())
        page.evaluate("() => atlas.started")
        first = time.perf_counter() - start
        page.evaluate("() => { atlas.change({page: 'gallery'}); return atlas.show(); }")
        cards = [
            page.evaluate(
                """async (place) => {
                    const start = performance.now();
                    atlas.state = {...atlas.state, page: "image", image: atlas.images.image_id[place]};
                    await atlas.show();
                    await new Promise(requestAnimationFrame);
                    return (performance.now() - start) / 1000;
                }""",
                place,
            )
            for place in range(0, 17 * count, 17)
        ]
        browser.close()
    return first, cards


def main(images: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = publish(folder, images)
        for most in (500, images):
            start = time.perf_counter()
            written = write(Report(out=out, to=str(folder / "report"), images=most))
            seconds, count = time.perf_counter() - start, len(written.selection.image_ids)
            first, cards = shown(folder / "report", min(20, count // 17))
            print(
                f"{images:,} images, {METHODS} methods, {len(TARGETS)} targets, {count} shown: written in {seconds:.1f} s, {written.size / 1e6:.1f} MB; "
                f"first page {first:.2f} s, image card {1000 * np.median(cards):.0f} ms in the median, {1000 * max(cards):.0f} ms at most"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2] or [10_000]))
