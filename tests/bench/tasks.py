"""How planning, resuming and publishing grow with the number of tasks: real receipts and a real manifest, simulated compute.

Of each kind of run its seconds, wall and CPU, and those of them that the simulated workers took to write tasks' files, which a driver
leaves to others; and the driver's memory before the first and at its peak.

python -m tests.bench.tasks 10000 30000 100000
"""

import hashlib
import json
import logging
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipeline import storage
from pipeline.engine.batch import PASSES
from pipeline.plan.check import check_job
from pipeline.plan.task import Task
from pipeline.run import in_process
from pipeline.run.execute import execute
from pipeline.run.executor import Executor
from pipeline.spec.job import Job
from pipeline.tables import files, schema
from pipeline.tables.identity import digest
from pipeline.tables.receipts import Receipt, RowGroups, parquet_bytes
from tests.shards import encoded, picture, tar_bytes

IN_A_SHARD = 10
METHODS = ("grad_cam", "layer_cam", "eigen_cam")


def shards(folder: Path, tasks: int, in_a_shard: int = IN_A_SHARD) -> str:
    """As many images as tasks, all the same."""
    image = encoded(picture(0, 16), "JPEG")
    content = tar_bytes([(f"image{i}", {"jpg": image, "cls": b"1"}) for i in range(in_a_shard)])
    folder.mkdir()
    for number in range(-(-tasks // in_a_shard)):
        (folder / f"{number:05}.tar").write_bytes(content)
    return f"{folder}/*.tar"


class Simulated:
    """The flow without a network: one row of predictions a task, and a receipt that names every cell."""

    def __init__(self, checked):
        self.checked = checked
        form = schema.predictions(checked.backbone.num_classes, True)
        row = {"image_id": "x", "model": "m", "label": 1, "predicted": 1}
        self.content = parquet_bytes([pa.Table.from_pylist([row], form)])
        self.sha = hashlib.sha256(self.content).hexdigest()
        self.tasks, self.seconds = 0, 0.0  # done in here
        payers = ["look", *(method.alias for method in checked.spec.methods)]
        self.passes = {payer: {"images": 1, **dict.fromkeys(PASSES, 1)} for payer in payers}

    def __call__(self, tasks, read, explain, land, workers, gpus, timeout):
        for text in tasks:
            began = time.process_time()
            task = Task.from_json(text)
            wanted = [self.checked.outputs[i] for i in task.missing]
            cells = {
                task.output_identity(cell.identity): RowGroups(cell.table, *((0, 1) if cell.table == "predictions" else (-1, 0)), -1, 0)
                for cell in wanted
            }
            folder = f"tasks/{task.id[:2]}/{task.id}/{digest(sorted(cells))}"
            written = {}
            if any(cell.table == "predictions" for cell in wanted):
                path = f"{folder}/predictions.parquet"
                files.write_bytes(storage.join(land.out, path), self.content)
                written["predictions"] = {"path": path, "bytes": len(self.content), "sha256": self.sha}
            facts = {"shard": task.shard.name, "start": task.start, "stop": task.stop, "failed": 0, "bytes_read": 0, "retries": 0}
            facts |= {"seconds": {"read": 0.0, "explain": 0.0}, "passes": self.passes}
            content = Receipt(task.id, folder, cells, written, facts).to_json()
            files.write_bytes(storage.join(land.out, folder, "receipt.json"), content.encode())
            self.tasks, self.seconds = self.tasks + 1, self.seconds + time.process_time() - began
            yield content


def measured(tasks: int) -> dict:
    """Seconds and the driver's peak memory in MB, by kind of run."""
    logging.disable(logging.INFO)
    found = {"tasks": tasks}
    with tempfile.TemporaryDirectory() as place:
        source, out = shards(Path(place) / "shards", tasks), f"{place}/out"

        def timed(name: str, methods=METHODS[:2]) -> None:
            job = Job(source=(source,), backbone="tests.tiny:build", image_size=64, methods=methods, workers=0, task_images=1, out=out)
            checked = check_job(job)
            workers = Simulated(checked)
            found.setdefault("start_mb", _peak())
            wall, cpu = time.perf_counter(), time.process_time()
            execute(checked, replace(Executor.of(in_process, 1, 0), explain_tasks=workers))
            spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "cpu_of_workers": workers.seconds}
            found[name] = {kind: round(seconds, 1) for kind, seconds in spent.items()} | {"peak_mb": _peak()}

        timed("first")
        timed("nothing_new")
        timed("one_method_more", METHODS)
        shutil.rmtree(f"{out}/runs")
        Path(f"{out}/current.json").unlink()
        timed("from_receipts_alone", METHODS)
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    if len(sys.argv) > 2:
        for count in sys.argv[1:]:  # a process each, so that peaks of memory are their own
            subprocess.run([sys.executable, "-m", "tests.bench.tasks", count], check=True)
    else:
        print(json.dumps(measured(int(sys.argv[1]))), flush=True)
