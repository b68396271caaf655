"""How tasks are dealt out to workers: stages that sleep, in the real flow, on as many logical CPUs as workers.

Of each case the workers that did something, the most tasks of one worker, and the share of the time that workers were busy between the
moment when all of them had loaded and the end of the last task but those that end alone.

python -m tests.bench.placement          # 2 tasks on 2 workers, 8 on 8, 9 on 8, 30 on 8
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial

from cluster.connect import connected, loopback, token
from pipeline.plan.task import Task
from pipeline.run.on_ray import explain_tasks
from pipeline.sources import Index, Shard

CASES = ((2, 2), (8, 8), (9, 8), (30, 8))
LOAD, WORK, READ = 1.0, 3.0, 0.1  # seconds


def read(row: dict) -> dict:
    """A task's images would be decoded."""
    time.sleep(READ)
    return {"task": row["task"], "pixels": b"\0" * 2**20}


@dataclass(frozen=True)
class Work:
    """A task would be explained; `loaded` is when this worker was ready."""

    loaded: float

    def __call__(self, row: dict) -> dict:
        began = time.time()
        time.sleep(WORK)
        fact = {"worker": os.getpid(), "loaded": self.loaded, "began": began, "ended": time.time()}
        return {"task": row["task"], "fact": json.dumps(fact)}


def load() -> Work:
    """A network would be loaded, on some workers faster than on others."""
    time.sleep(LOAD + os.getpid() % 4 * LOAD / 2)
    return Work(time.time())


def land(row: dict) -> dict:
    """A task's files would be written."""
    return {"receipt": row["fact"]}


def case(tasks: int, workers: int) -> None:
    """Print one case as a line; in a process of its own, as its Ray is."""
    loopback()
    token()
    import ray

    shard, index = Shard("tar", "s", ("memory://s",), 0), Index("identity", tasks, tasks)
    texts = [Task.of(shard, index, i, i + 1).to_json() for i in range(tasks)]
    ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.ERROR, _node_ip_address="127.0.0.1")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with connected():
        facts = [json.loads(text) for text in explain_tasks(texts, read, partial(load), land, workers, 0, 600.0)]
    counts = Counter(fact["worker"] for fact in facts)
    start, end = max(fact["loaded"] for fact in facts), max(fact["ended"] for fact in facts)
    busy = sum(max(0.0, fact["ended"] - max(fact["began"], start)) for fact in facts)
    share = busy / max(1e-9, (end - start) * min(tasks, workers))
    print(
        f"{tasks:4} tasks on {workers} workers: {len(counts)} of them worked, {max(counts.values())} at most by one, busy {share:.2f}, {end - start:.1f} s"
    )


def main() -> None:
    """Run every case."""
    for tasks, workers in CASES:
        subprocess.run([sys.executable, "-m", "tests.bench.placement", str(tasks), str(workers)], check=True)


if __name__ == "__main__":
    case(*map(int, sys.argv[1:3])) if len(sys.argv) > 2 else main()
