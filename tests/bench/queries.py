"""How long each named query takes on a large run, and the memory it needs: made-up rows, real files, a process a query.

python -m tests.bench.queries 10000000 1000000    # rows of metrics, rows of maps
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline import tables
from pipeline.tables import files, schema
from pipeline.tables.queries import QUERIES

METHODS = ("grad_cam", "layer_cam", "eigen_cam", "score_cam", "rise", "opti_cam", "glas", "gradient", "random", "fake_cam")
TARGETS = ("label", "finer")
CLASSES = 1000
IMAGE_ID = "'shard/' || lpad((i // 1000)::TEXT, 5, '0') || '.tar/' || lpad(i::TEXT, 9, '0') AS image_id"
KEYS = f"{IMAGE_ID}, 'timm/resnet50' AS model"
IMAGE = (
    f"SELECT i, hash(i) % {CLASSES} AS label, if(hash(i, 1) % 5 = 0, hash(i, 2) % {CLASSES}, hash(i) % {CLASSES}) AS predicted FROM range"
)


def of_images(count: int) -> dict[str, str]:
    """The tables of images, as queries that draw them."""
    cells = "[(hash(i, j) % 256)::SMALLINT for j in range(196)]"
    return {
        "images": f"SELECT {IMAGE_ID}, i.label::INT AS label, 'class ' || label AS label_name, "
        f"[{{x0: .2::FLOAT, y0: .2::FLOAT, x1: .8::FLOAT, y1: .8::FLOAT}}] "
        f"AS boxes FROM ({IMAGE}({count}) t(i)) i",
        "predictions": f"SELECT {KEYS}, label::INT AS label, predicted::INT AS predicted, (hash(i, 3) % 1000 / 1000)::FLOAT AS label_prob, "
        f"(hash(i, 4) % 1000 / 1000)::FLOAT AS predicted_prob FROM ({IMAGE}({count}) t(i))",
        "disagreement": f"SELECT {KEYS}, 'label' AS target, (hash(i, 5) % 1000 / 1000)::DOUBLE AS disagreement, 10 AS methods, "
        f"[{{a: 'rise', b: 'glas', spearman: (hash(i, j) % 100 / 100)::FLOAT}} for j in range(45)] AS pairs FROM range({count}) t(i)",
        "errors": "SELECT 'x' AS image_id, 's' AS shard, 'decode' AS stage, 'Damaged' AS error, 'a message' AS message",
        "maps": f"SELECT {KEYS}, '{{target}}' AS target, 14::SMALLINT AS height, 14::SMALLINT AS width, {cells} AS map, 0::FLOAT AS map_min, "
        f"1::FLOAT AS map_max, (hash(i, '{{method}}') % 100 / 100)::FLOAT AS peak_x, (hash(i, '{{method}}', 1) % 100 / 100)::FLOAT AS peak_y "
        f"FROM range({{images}}) t(i)",
        "metrics": f"SELECT {KEYS}, '{{target}}' AS target, (hash(i) % {CLASSES})::INT AS label, (hash(i, '{{method}}') % 1000 / 1000)::FLOAT AS energy, "
        "if(i % 100 = 0, MAP(['pointing'], ['no box']), NULL) AS reasons FROM range({images}) t(i)",
    }


def of_analyses() -> dict[str, str]:
    """The tables of analyses that grow with methods and classes alone."""
    mean = "'timm/resnet50' AS model, random() AS mean, -.1 AS ci_low, .1 AS ci_high, 500::BIGINT AS n"
    methods, targets = f"unnest({[*METHODS]}) m(method)", f"unnest({[*TARGETS]}) t(target)"
    scopes = f"unnest(list_prepend('all', [i::TEXT for i in range({CLASSES})])) s(scope)"
    drawn = "14 AS height, 14 AS width, [(hash(i) % 256)::SMALLINT for i in range(196)] AS map, 0::FLOAT AS map_min, 1::FLOAT AS map_max"
    return {
        "agreement": f"SELECT {mean}, 'methods' AS kind, target, m.method AS a, o.method AS b, false AS with_controls, NULL::INT AS methods "
        f"FROM {methods}, unnest({[*METHODS]}) o(method), {targets}",
        "class_sensitivity_summary": f"SELECT {mean}, method, 'label' AS a, 'finer' AS b, 'spearman' AS number, scope FROM {methods}, {scopes}",
        "background_summary": f"SELECT {mean}, method, target, number, scope FROM {methods}, {targets}, {scopes}, "
        "unnest(['outside', 'area']) k(number)",
        "clusters": f"SELECT 'timm/resnet50' AS model, method, target, i::INT AS class_id, k::INT AS cluster, 20 AS n, 60 AS class_images, "
        "random() AS share, random() AS separation, random() AS distance, random() AS suspicion, ['x'] AS exemplars "
        f"FROM {methods}, {targets}, range({CLASSES}) c(i), range(3) k(k)",
        "aggatt": f"SELECT {mean}, {drawn}, method, target, 'energy' AS metric, bin, bin / 6 AS low, (bin + 1) / 6 AS high, ['x'] AS examples "
        f"FROM {methods}, {targets}, range(6) b(bin)",
    }


def publish(out: str, metrics: int, maps: int) -> None:
    """A run with so many rows of `metrics` and `maps`."""
    connection, run, entries = duckdb.connect(), Path(out, "runs", "run"), []
    images = {"metrics": metrics // len(METHODS) // len(TARGETS), "maps": maps // len(METHODS) // len(TARGETS)}
    for table, query in of_images(max(images.values())).items():
        of_table = [(method, target) for method in METHODS for target in TARGETS] if table in images else [(None, None)]
        for method, target in of_table:
            path = f"{table}/method={method}/{target}.parquet" if method else f"{table}/part.parquet"
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            filled = query.format(method=method, target=target, images=images.get(table)) if method else query
            connection.execute(f"COPY ({filled}) TO '{run / path}' (FORMAT parquet, ROW_GROUP_SIZE 65536)")
            entries.append({"path": path, "table": table})
    drawn = (
        "model",
        "method",
        "target",
        "metric",
        "scope",
        "n",
        "n_null",
        "mean",
        "better",
        "diff_label",
        "diff_label_low",
        "diff_label_high",
    )
    others = ", ".join(
        f"random() AS {field.name}" for field in schema.SUMMARY if field.name not in drawn and pa.types.is_floating(field.type)
    )
    scopes = "SELECT unnest(list_prepend('all', [i::TEXT for i in range(1000)])) AS scope"
    means = f"""SELECT 'timm/resnet50' AS model, method, target, metric, scope, 500::BIGINT AS n, 0::BIGINT AS n_null, random() AS mean,
        'higher' AS better, random() - .5 AS diff_label, -.1 AS diff_label_low, .1 AS diff_label_high, {others}
        FROM ({scopes}), unnest({[*METHODS]}) m(method), unnest({[*TARGETS]}) t(target), unnest(['ag', 'ai', 'insertion', 'energy']) k(metric)"""
    for table, query in {"summary": means, **of_analyses()}.items():
        (run / table).mkdir()
        connection.execute(f"COPY ({query}) TO '{run / table / 'part.parquet'}' (FORMAT parquet)")
        entries.append({"path": f"{table}/part.parquet", "table": table})
    passes = {method: {"images": 1000, "forwards": 1000, "seconds": 1.0} for method in METHODS}
    counts = {"images": 1, "explained": 1, "failed": 0, "errors": 1}
    manifest = {
        "files": entries,
        "backbone": {"name": "m"},
        "counts": counts,
        "passes": passes,
    }
    files.write_json(str(run / "run.json"), manifest)
    files.write_json(str(Path(out, "current.json")), {"default": "run"})


def measure(out: str, name: str) -> None:
    """Print the seconds and the memory of one query in this process."""
    query, start = QUERIES[name], time.perf_counter()
    with tables.open(out).connect() as connection:
        connection.execute("SET threads = 2")
        rows = connection.sql(query.sql, params=query.parameters(()) or None).fetchall()
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:20} {seconds:6.2f} s {peak:6.2f} GiB {len(rows):6} rows", flush=True)


def main() -> None:
    """Make a run and put every named query to it, each in a fresh process."""
    metrics, maps = map(int, sys.argv[1:3])
    with tempfile.TemporaryDirectory() as out:
        publish(out, metrics, maps)
        for name in QUERIES:
            subprocess.run([sys.executable, "-c", f"from tests.bench.queries import measure; measure({out!r}, {name!r})"], check=True)


if __name__ == "__main__":
    main()
