"""Draw a small fine-grained dataset, explain it with the shipped network, ask the tables a question, and write a report.

python -m jobs.demo --out out/demo
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs import explain
from pipeline import tables
from pipeline.datasets import creatures
from pipeline.report.job import Report
from pipeline.report.write import write
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.spec.job import Job

# The share of each map's positive part in the creature's box: the maps are square grids, so cell i of `width` is at
# (i % width + 0.5) / width.
QUESTION = """
WITH cells AS (
    SELECT image_id, method, target, width, height, map_min, map_max, unnest(map) AS code, generate_subscripts(map, 1) - 1 AS cell
    FROM maps WHERE target IN ('none', 'label', 'finer')
), mass AS (
    SELECT image_id, method, target, (cell % width + 0.5) / width AS x, (cell // width + 0.5) / height AS y,
           greatest(map_min + code / 255.0 * (map_max - map_min), 0) AS value
    FROM cells
)
SELECT method, target, count(DISTINCT image_id) AS images,
       round(sum(value) FILTER (x BETWEEN box.x0 AND box.x1 AND y BETWEEN box.y0 AND box.y1) / sum(value), 3) AS share_in_box
FROM mass JOIN (SELECT image_id, boxes[1] AS box FROM images) USING (image_id) GROUP BY method, target
ORDER BY share_in_box DESC, method, target
"""
# The score of each method at finding the parts in which two creatures differ (mPxAP, beside what chance would get): by the map of the creature
# itself, by that of Finer-CAM, by the difference of the maps of both creatures, and by the map of the difference of both answers.
CUES = """
SELECT method, round(max(mean) FILTER (target IN ('none', 'label')), 3) AS own, round(max(mean) FILTER (target = 'finer'), 3) AS finer,
       round(max(mean) FILTER (target = 'cues'), 3) AS maps_apart, round(max(mean) FILTER (target = 'cues#finer'), 3) AS answers_apart,
       round((SELECT max(mean) FROM summary WHERE metric = 'mpxap_chance' AND scope = 'all'), 3) AS chance
FROM summary WHERE metric = 'mpxap' AND scope = 'all' GROUP BY method ORDER BY answers_apart DESC, own DESC, method
"""
ACCURACY = "SELECT count(*) AS images, round(avg((label = predicted)::INT), 3) AS accuracy FROM predictions"


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Draw a small fine-grained dataset, explain it with the shipped network, ask the tables a question, and write a report."""

    out: str = "out/demo"
    """Folder or URL of the drawn shards and the tables."""
    images_per_class: int = 20
    """Count of images of each of the twelve creatures."""
    workers: int | None = None
    """As for jobs.explain."""
    log: Literal["text", "json"] = "text"
    """As for jobs.explain."""


def job_of(demo: Demo) -> Job:
    """The explain job of the demo, once its shards are drawn."""
    out = str(Path(demo.out).resolve()) if "://" not in demo.out else demo.out
    shards = creatures.write(f"{out}/shards", images_per_class=demo.images_per_class, shards=4)
    settings = {**creatures.ARGS, "mean": creatures.MEAN, "std": creatures.STD}
    arguments = [f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in settings.items()]
    return Job(
        source=tuple(shards),
        backbone=f"timm/{creatures.NAME}",
        weights=str(creatures.weights_path()),
        backbone_args=tuple(arguments),
        image_size=creatures.IMAGE_SIZE,
        methods=("family:cam",),
        targets=("label", "finer", f"cues=pairs:{out}/shards/pairs.json"),
        metrics=("mpxap",),
        workers=demo.workers,
        task_images=64,
        name="demo",
        log=demo.log,
        out=f"{out}/atlas",
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    return exit_code_of(lambda: run_and_report(job_of(command_line(Demo, "jobs.demo", arguments))))


def run_and_report(job: Job) -> int:
    """Carry out the demo's job, print the answers of its tables and write its report; returns the exit code."""
    result = explain.run(job)
    run = tables.open(job.out, job.name)
    with run.connect() as connection:
        for question in (ACCURACY, QUESTION, CUES):
            print(question.strip())
            print(connection.sql(question))
    print(f"the tables are below {job.out}/runs/{run.run_id}")
    print(f"look at it in a browser: {write(Report(out=job.out, name=job.name)).url}/index.html")
    return explain.report(result)


if __name__ == "__main__":
    sys.exit(main())
