"""Jobs on a cluster of several nodes while actors, nodes, drivers and storage fail at random: what they publish in the end is the same.

python -m tests.chaos 50          # runs; `make chaos`
"""

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

from tests.faults import Faults, proxy
from tests.s3 import environment_of

ROOT = Path(__file__).parents[1]
SHARE = 0.05  # of the requests to storage
FAULTS = ("actor", "node", "driver")
EACH_RUN = 3  # faults of these kinds in one run
STARTS = 15  # of one job at most
ASKED = ["--backbone", "tests.tiny:build", "--backbone-args", "num_classes=12", "--image-size", "64", "--task-images", "2"]
ASKED += ["--methods", "grad_cam", "eigen_cam", "random", "--targets", "label", "finer"]


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


class Chaos:
    """One cluster, one bucket, and the tables of an undisturbed job; each `run` is a job of its own with its own faults."""

    def __init__(self, server: str, folder: Path):
        self.server, self.folder, self.injected = server, folder, Counter()
        self.faults = Faults(SHARE)
        self.bucket = f"chaos-{uuid4().hex[:8]}"

    @contextlib.contextmanager
    def ready(self):
        """Draw the data, explain it undisturbed, start three nodes and the endpoint that fails."""
        import boto3
        from ray.cluster_utils import Cluster

        from jobs import explain
        from pipeline import creatures, storage
        from tests.test_run import content

        os.environ |= environment_of(self.server)
        boto3.client("s3").create_bucket(Bucket=self.bucket)
        self.source = f"s3://{self.bucket}/shards/*.tar"
        for shard in creatures.write(f"{self.folder}/shards", images_per_class=2, shards=4):
            storage.filesystem(self.source)[0].pipe_file(f"{self.bucket}/shards/{Path(shard).name}", Path(shard).read_bytes())
        self._inline(explain)
        self.expected = content(self.folder / "undisturbed")
        with proxy(self.server, self.faults) as endpoint:
            os.environ |= {"AWS_ENDPOINT_URL": endpoint, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
            self.environment = dict(os.environ)
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
            self.nodes = [self.cluster.add_node(num_cpus=2) for _ in range(2)]
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
        from tests.test_run import content

        draw, before = random.Random(seed), Counter(self.faults.injected)
        self.faults.random = random.Random(seed)
        out, planned, injected = f"s3://{self.bucket}/out{seed}", [draw.choice(FAULTS) for _ in range(EACH_RUN)], Counter()
        log = self.folder / f"driver{seed}.log"
        for _ in range(STARTS):
            injected["starts"] += 1
            code = self._driven(out, planned, draw, injected, log)
            if code == 0:
                break
        assert code == 0, f"run {seed} was not done after {STARTS} starts; the last ended with {code}:\n{log.read_text()[-3000:]}"
        assert content(out) == self.expected, f"run {seed} published other tables"
        injected.update({f"storage {kind}": count - before[kind] for kind, count in self.faults.injected.items()})
        self.injected += injected
        return +injected

    def _driven(self, out: str, planned: list[str], draw: random.Random, injected: Counter, log: Path) -> int:
        """One driver from start to end, with what is still planned happening to it; returns its exit code."""
        line = [sys.executable, "-m", "jobs.explain", *ASKED, "--source", self.source, "--out", out, "--workers", "2"]
        with open(log, "ab") as sink:
            environment = {**self.environment, "RAY_ADDRESS": self.cluster.address}
            driver = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=sink, stderr=sink)
        try:
            while driver.poll() is None:
                if planned and below(os.getpid(), "ray::MapWorker"):  # the flow runs
                    time.sleep(draw.uniform(0, 3))
                    if self._strike(planned[0], draw, driver):
                        injected[planned.pop(0)] += 1
                else:
                    time.sleep(0.2)
        finally:
            driver.kill()
        return driver.wait()

    def _another(self):
        """A new node. Ray gives it half a minute to report, which on a busy machine may be too little."""
        for _ in range(9):
            with contextlib.suppress(Exception):
                return self.cluster.add_node(num_cpus=2)
        return self.cluster.add_node(num_cpus=2)

    def _strike(self, kind: str, draw: random.Random, driver: subprocess.Popen) -> bool:
        if driver.poll() is not None:
            return False
        if kind == "driver":
            driver.send_signal(signal.SIGKILL)
            return True
        if kind == "node":
            self.cluster.remove_node(self.nodes.pop(draw.randrange(len(self.nodes))), allow_graceful=False)
            self.nodes.append(self._another())
            return True
        actors = below(os.getpid(), "ray::MapWorker")
        if actors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(actors), signal.SIGKILL)
                return True
        return False


def main(runs: int) -> None:
    """So many runs on one cluster; says what befell them."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with tempfile.TemporaryDirectory() as folder, Chaos(f"http://{host}:{port}", Path(folder)).ready() as chaos:
        for seed in range(runs):
            began = time.monotonic()
            print(f"run {seed}: {dict(chaos.run(seed))}, {time.monotonic() - began:.0f} s", flush=True)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(chaos.injected.items()))
        print(f"{runs} runs published the same tables as the undisturbed one, through {told}")
    server.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
