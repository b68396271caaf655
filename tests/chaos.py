"""Jobs on a cluster of several nodes while actors, nodes, drivers and storage fail at random: what they publish in the end is the same.

python -m tests.chaos 50          # runs; `make chaos`
"""

import contextlib
import logging
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from pipeline.tables import files
from tests.faults import Faults, proxy
from tests.gate import ADDRESS, gate
from tests.s3 import environment_of

SHARE = 0.05  # of the requests to storage
FAULTS = ("actor", "node", "driver")
EACH_RUN = 2  # of these kinds
STARTS = 15  # of one job at most
TASKS = 12
ASKED = ["--backbone", "tests.gate:build", "--backbone-args", "num_classes=12", "--image-size", "64", "--task-images", "2"]
ASKED += ["--methods", "grad_cam", "eigen_cam", "random", "--targets", "label", "finer"]
# Every driver is forked from one process that has imported what drivers import, which takes as long as all they then do.
DRIVERS = multiprocessing.get_context("forkserver")
DRIVERS.set_forkserver_preload(["jobs.explain", "pipeline.run.on_ray", "cluster.connect"])


def drive(line: list[str], environment: dict[str, str], log: Path) -> None:
    """A driver's process: the job's command line, what it says going to `log`."""
    from jobs import explain

    os.environ |= environment
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for told in (1, 2):
        os.dup2(sink, told)
    sys.exit(explain.main(line))


def below(parent: int, word: str) -> list[int]:
    """Processes that descend from `parent` with `word` at the start of their command line."""
    parents, named = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_bytes().startswith(word.encode()):
                named.append(int(path.name))

    def descends(process: int) -> bool:
        while process and process != parent:
            process = parents.get(process, 0)
        return bool(process)

    return sorted(filter(descends, named))


def _planned(draw: random.Random, passes: int) -> list[tuple[str, int | None]]:
    """What will happen in a run, and when: once so many passes through the network are begun, or (None) once every task is landed.

    The first strikes while something is at work, and the second may come when the job publishes and its actors are gone.
    """
    first, second = draw.sample(FAULTS, EACH_RUN)
    early = draw.randrange(passes // 2)
    late = None if second != "actor" and draw.random() < 0.3 else draw.randrange(early, passes * 3 // 4)
    return [(first, early), (second, late)]


class Chaos:
    """One cluster, one bucket, and the tables of an undisturbed job; each `run` is a job of its own with its own faults."""

    def __init__(self, server: str, folder: Path):
        self.server, self.folder, self.injected = server, folder, Counter()
        self.faults = Faults(SHARE)
        self.bucket = f"chaos-{uuid4().hex[:8]}"

    @contextlib.contextmanager
    def checked(self):
        """Draw the data, explain it undisturbed, start three nodes and the endpoint that fails."""
        import boto3

        from cluster.connect import token

        token()
        from ray.cluster_utils import Cluster

        from jobs import explain
        from pipeline import storage
        from pipeline.datasets import creatures
        from tests.jobs import content

        os.environ |= environment_of(self.server)
        boto3.client("s3").create_bucket(Bucket=self.bucket)
        self.source = f"s3://{self.bucket}/shards/*.tar"
        for shard in creatures.write(f"{self.folder}/shards", images_per_class=2, shards=4):
            storage.filesystem(self.source)[0].pipe_file(f"{self.bucket}/shards/{Path(shard).name}", Path(shard).read_bytes())
        with gate() as self.gate, proxy(self.server, self.faults) as endpoint:
            self._inline(explain)
            self.passes, self.expected = self.gate.begun, content(self.folder / "undisturbed")
            os.environ |= {"AWS_ENDPOINT_URL": endpoint, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
            # One CPU a node: more would start more processes than the machine has cores for.
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
            self.environment = {**os.environ, "RAY_ADDRESS": self.cluster.address, ADDRESS: ""}  # a driver's own passes are not held up
            os.environ["AWS_ENDPOINT_URL"] = self.server  # this process looks at what was published, and nobody disturbs it
            try:
                yield self
            finally:
                self.cluster.shutdown()

    def _inline(self, explain) -> None:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        code = explain.main([*ASKED, "--source", self.source, "--out", f"{self.folder}/undisturbed", "--workers", "0"])
        torch.set_num_threads(threads)
        assert code == 0

    def run(self, seed: int) -> Counter:
        """One job, started again until it is done; returns the faults it went through.

        Raises:
            AssertionError: where it is never done, or publishes anything but what the undisturbed job did.
        """
        from tests.jobs import content

        draw, before = random.Random(seed), Counter(self.faults.injected)
        self.faults.random, self.faults.owed = random.Random(seed), 1  # on a fast machine a run may ask too little for its share to show
        self.gate.restart()
        out, planned, injected = f"s3://{self.bucket}/out{seed}", _planned(draw, self.passes), Counter()
        log = self.folder / f"driver{seed}.log"
        for _ in range(STARTS):
            injected["starts"] += 1
            code = self._driven(out, planned, draw, injected, log)
            if code == 0:
                break
            injected[f"exit {code}"] += 1
        assert code == 0, f"run {seed} was not done after {STARTS} starts; the last ended with {code}:\n{log.read_text()[-3000:]}"
        assert content(out) == self.expected, f"run {seed} published other tables"
        injected.update({f"storage {kind}": count - before[kind] for kind, count in self.faults.injected.items()})
        self.injected += injected
        return +injected

    def _driven(self, out: str, planned: list[tuple[str, int | None]], draw: random.Random, injected: Counter, log: Path) -> int:
        """One driver from start to end, with what is still planned happening to it; returns its exit code."""
        line = [*ASKED, "--source", self.source, "--out", out, "--workers", draw.choice("12")]
        driver = DRIVERS.Process(target=drive, args=(line, self.environment, log))
        driver.start()
        try:
            while driver.is_alive():
                kind, moment = planned[0] if planned else ("", None)
                self.gate.open(math.inf if moment is None else moment)
                held = self.gate.held(0.2) if moment is not None else driver.join(0.2)
                if held or (kind and moment is None and self._landed(out)):
                    self._strike(kind, draw, driver, held)
                    injected[planned.pop(0)[0]] += 1
        finally:
            self.gate.open()
            driver.kill()
            driver.join()
        return driver.exitcode

    def _landed(self, out: str) -> bool:
        return sum(path.endswith("receipt.json") for path in files.below(f"{out}/tasks")) >= TASKS

    def _another(self):
        """A new node. Ray gives it half a minute to report, which on a busy machine may be too little."""
        for _ in range(9):
            with contextlib.suppress(Exception):
                return self.cluster.add_node(num_cpus=1)
        return self.cluster.add_node(num_cpus=1)

    def _strike(self, kind: str, draw: random.Random, driver, held: list[int]) -> None:
        if kind == "driver":
            driver.kill()
        elif kind == "actor":
            os.kill(draw.choice(held), signal.SIGKILL)
        else:
            self.cluster.remove_node(self.nodes.pop(draw.randrange(len(self.nodes))), allow_graceful=False)
            self.nodes.append(self._another())


def told(injected: Counter) -> str:
    """Kills, faults of the store, and how often a job had to be started, each by kind."""

    def listed(name: str, kinds: Iterable[str]) -> str:
        counts = {kind: injected[kind] for kind in kinds}
        return f"{sum(counts.values())} {name} ({', '.join(f'{count} {kind}' for kind, count in counts.items())})"

    storage, ends = (sorted(kind for kind in injected if kind.startswith(word)) for word in ("storage", "exit"))
    return ", ".join([listed("kills", FAULTS), listed("faults", storage), f"{injected['starts']} drivers", listed("broken off", ends)])


def main(runs: int) -> int:
    """So many runs on one cluster; says what befell them, and returns how many published something else or nothing."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    started, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, Chaos(f"http://{host}:{port}", Path(folder)).checked() as chaos:
        for seed in range(runs):
            began = time.monotonic()
            try:
                print(f"run {seed}: {told(chaos.run(seed))}, {time.monotonic() - began:.0f} s", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"run {seed} FAILED: {error}", flush=True)
        print(
            f"{runs - failed} of {runs} runs published the same tables as the undisturbed one, through {told(chaos.injected)}", flush=True
        )
        print(f"in {time.monotonic() - started:.0f} s")
    server.stop()
    return failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
