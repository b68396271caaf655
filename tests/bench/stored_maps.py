"""How far metrics of maps stored with 8 bits a cell, and of pixel-level maps averaged down to 56 x 56, are from those of the float maps.

python -m tests.bench.stored_maps --source 'val/*.tar' --backbone timm/mobilenetv2_100 --weights FILE --out out/stored_maps
"""

import sys

import pyarrow as pa

from jobs import explain, score
from pipeline import tables
from pipeline.spec.command_line import command_line
from pipeline.spec.job import Job
from pipeline.tables.schema import SCORES

METRICS = ("all", "bbox_study", "selectivity")  # but for those that ask for new maps, and `mpxap`, which needs pairs of classes
METHODS = ("grad_cam", "gradient")


def difference(job: Job) -> pa.Table:
    """Mean and largest distance of each metric's values, by method: the run `float` scores maps as computed, the run `stored` as stored.

    A dataset-level metric has one value, of all maps. The share of ties is left out: it says how many the 8 bits have made.
    """
    named = vars(job)
    explain.run(Job(**{**named, "name": "stored", "metrics": (), "metric_args": ()}))
    score.run(score.Score(out=job.out, name="stored", metrics=METRICS, metric_args=job.metric_args))
    explain.run(Job(**{**named, "name": "float", "metrics": METRICS}))
    import duckdb

    runs = [tables.open(job.out, name) for name in ("float", "stored")]
    exact, stored = (run.table("metrics") for run in runs)
    exact_all, stored_all = (run.table("summary") for run in runs)

    columns = sorted(set(stored.column_names) - {*SCORES.names, "reasons"})
    each = " UNION ALL ".join(
        f"SELECT method, '{column}' AS metric, abs(a.{column} - b.{column})::DOUBLE AS apart, a.{column}::DOUBLE AS value "
        "FROM exact a JOIN stored b USING (image_id, method, target)"
        for column in columns
    )
    each += (
        " UNION ALL SELECT method, metric, abs(a.mean - b.mean), a.mean FROM exact_all a JOIN stored_all b USING (method, target, metric, scope)"
        f" WHERE scope = 'all' AND metric NOT IN ({', '.join(map(repr, columns))})"
    )
    return duckdb.sql(
        f"SELECT metric, method, count(apart) AS maps, avg(value) AS mean, avg(apart) AS apart, max(apart) AS most FROM ({each}) "
        "WHERE method NOT IN ('fake_cam', 'random') AND metric <> 'tie_share' AND apart IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).to_arrow_table()


def main() -> None:
    """Print the table as Markdown."""
    job = command_line(Job, "tests.bench.stored_maps", [*sys.argv[1:], "--methods", *METHODS])
    print("| metric | method | maps | mean | mean distance | largest |\n|---|---|---|---|---|---|")
    for row in difference(job).to_pylist():
        print(f"| {row['metric']} | {row['method']} | {row['maps']} | {row['mean']:.4f} | {row['apart']:.1e} | {row['most']:.1e} |")


if __name__ == "__main__":
    main()
