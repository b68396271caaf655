"""How near a plan comes to the run: passes and wall time of one line of each kind, first planned and then run, each in a process of its own.

python -m tests.bench.plan
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from jobs import demo, plan
from pipeline import tables
from pipeline.engine.batch import PASSES
from pipeline.spec.job import Job

NO_METRICS: dict = {"metrics": (), "targets": ("label", "finer"), "workers": 0}
LINES = {  # kind -> images of each of the twelve creatures, and the line
    "CAMs": (80, NO_METRICS | {"methods": ("family:cam",)}),
    "masked": (2, NO_METRICS | {"methods": ("rise(masks=2000)",)}),
    "optimised": (4, NO_METRICS | {"methods": ("opti_cam(steps=100)",)}),
    "path": (8, NO_METRICS | {"methods": ("integrated_gradients(steps=50)",)}),
    "metrics": (
        4,
        NO_METRICS | {"methods": ("grad_cam", "layer_cam"), "metrics": ("deletion(steps=28)", "ad", "remove", "family:localisation")},
    ),
}


def job_of(kind: str, folder: str) -> Job:
    """The job of a line, below a folder."""
    images, line = LINES[kind]
    return replace(demo.job_of(demo.Demo(out=folder, images_per_class=images)), **line)


def one(action: str, kind: str, folder: str) -> None:
    """Plan a line, or run it; prints its passes and seconds as JSON."""
    job = job_of(kind, folder)
    if action == "plan":
        estimate = plan.estimate(plan.Plan(**vars(job)))
        passes, seconds = estimate.passes, estimate.wall_seconds(1)
        counts = {kind: sum(count for (_, name), count in passes.items() if name == kind) for kind in PASSES}
    else:
        from jobs import explain

        explain.run(job)
        spent = tables.open(job.out, job.name).manifest["passes"].values()
        counts, seconds = {kind: sum(payer[kind] for payer in spent) for kind in PASSES}, 0.0
    print(json.dumps({"passes": counts, "seconds": seconds}))


def in_process(action: str, kind: str, folder: str) -> tuple[dict, float]:
    """What a process of its own printed, and the seconds it took from start to end."""
    began = time.monotonic()
    words = [sys.executable, "-m", "tests.bench.plan", action, kind, folder]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began


def main() -> None:
    """Print a table: planned and measured seconds and forwards of every line, and their ratios."""
    print("line        planned s   run s   ratio   planned forwards   forwards   ratio   planning s")
    for kind in LINES:
        with tempfile.TemporaryDirectory() as folder:
            job_of(kind, folder)  # draws the shards
            planned, planning = in_process("plan", kind, folder)
            run, seconds = in_process("run", kind, folder)
            forwards = [of["passes"]["forwards"] for of in (planned, run)]
            ratios = planned["seconds"] / seconds, forwards[0] / forwards[1]
            print(
                f"{kind:10} {planned['seconds']:10.1f} {seconds:7.1f} {ratios[0]:7.2f} {forwards[0]:18,.0f} {forwards[1]:10,} {ratios[1]:7.3f} "
                f"{planning:12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], sys.argv[2], str(Path(sys.argv[3])))
    else:
        main()
