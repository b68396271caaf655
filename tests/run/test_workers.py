"""What befalls a worker: one that hangs, one that dies over the same image every time, and the traps of Ray Data that lose rows."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from jobs import explain
from pipeline.plan.task import Task
from pipeline.run import on_ray
from pipeline.sources import Index, Shard
from pipeline.stages.explain import Explain, keep_freed_memory
from pipeline.stages.read import Read
from tests.chaos import below
from tests.jobs import content, job
from tests.jobs import undisturbed as undisturbed_job
from tests.shards import good, tar_bytes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BLOCK, ROUNDS = 2**27, 8  # bytes of a block, larger than the heap of an arena that is not the main one; how many are taken and freed
ASKED = {"methods": ("grad_cam", "eigen_cam"), "workers": 1}


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    return undisturbed_job(job(source, tmp_path_factory.mktemp("undisturbed"), **{**ASKED, "workers": 0}))


def over(row: dict, shard: str, start: int) -> bool:
    task = Task.from_json(row["task"])
    return (task.shard.name, task.start) == (shard, start)


class Poisoned:
    """An explainer, or a reader, whose process does not outlive one task."""

    def __init__(self, stage, fate: str, log: Path):
        self.stage, self.fate, self.log = stage, fate, log

    def __call__(self, row: dict) -> dict:
        import ray

        with open(self.log, "a") as log:
            log.write(f"{Task.from_json(row['task']).id} {ray.get_runtime_context().get_task_id()}\n")
        if over(row, "00001.tar", 2):
            if self.fate == "hangs":
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
        return self.stage(row)


@pytest.mark.parametrize(("where", "fate"), [("explain", "dies"), ("explain", "hangs"), ("read", "dies")])
def test_a_task_that_takes_its_worker_with_it_lands_in_errors_and_the_others_complete(
    cluster, source, expected, tmp_path, monkeypatch, where, fate
):
    undisturbed = on_ray.explain_tasks
    log = tmp_path / "begun"

    def poisoned(tasks, read: Read, load, *rest):
        def loaded() -> Explain:
            return Poisoned(load(), fate, log)

        return undisturbed(tasks, Poisoned(read, fate, log), load, *rest) if where == "read" else undisturbed(tasks, read, loaded, *rest)

    monkeypatch.setattr(on_ray, "explain_tasks", poisoned)
    timeout = 10.0 if fate == "hangs" else 3600.0
    outcome = explain.run(job(source, tmp_path / "out", **ASKED, task_timeout=timeout))
    assert outcome.counts["explained"] == 10
    assert outcome.counts["failed"] == 2
    [row] = content(tmp_path / "out")["errors"]
    assert (row["shard"], row["stage"], row["error"]) == ("00001.tar", where, "WorkerDied")
    assert "images 2 to 3" in row["message"]
    begun = [line.split() for line in log.read_text().splitlines()]
    assert max(Counter(task for task, _ in begun).values()) == on_ray.ATTEMPTS
    if where == "read":  # T2: rows that collapse into one block keep one worker busy and are replayed together
        assert len({task for task, _ in begun}) == len({of_ray for _, of_ray in begun}) == 6, "a task is a block of its own"
    monkeypatch.undo()
    # in this process: what is asked again is the same wherever it is carried out
    assert undisturbed_job(job(source, tmp_path / "out", **{**ASKED, "workers": 0})) == expected


def test_an_item_is_a_block_of_its_own(cluster):
    """T2, for what lists and publishes."""

    def of_ray(item: int) -> tuple[int, str]:
        import ray

        return item, ray.get_runtime_context().get_task_id()

    found = list(on_ray.map(of_ray, range(20)))
    assert sorted(item for item, _ in found) == list(range(20))
    assert len({task for _, task in found}) == 20


def test_nothing_of_ray_data_that_loses_rows_is_switched_on(cluster):
    """T3 and T7: an errored block is dropped with all of its rows; a checkpoint takes a row's first part for the whole."""
    import ray

    context = ray.data.DataContext.get_current()
    assert context.max_errored_blocks == 0
    assert context.checkpoint_config is None


def test_bad_tasks_of_many_lose_no_other(cluster, tmp_path):
    """T3: with errored blocks allowed, one bad file of twenty lost all rows and the job said it had succeeded."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:05}.tar").write_bytes(tar_bytes([(f"image{i}", good(i))]))
    (folder / "00007.tar").write_bytes(b"no tar at all" * 300)
    (folder / "00008.tar").write_bytes(b"")
    (folder / "00009.tar").write_bytes(tar_bytes([("cut0", good(0)), ("cut1", good(1))])[:-9000])
    outcome = explain.run(job(str(folder / "*.tar"), tmp_path / "out", **ASKED))
    assert not outcome.complete
    assert (outcome.counts["shards_failed"], outcome.counts["explained"]) == (3, 18)
    published = content(tmp_path / "out")
    assert len(published["images"]) == 18, "the first image of the shard that was cut is whole"
    assert {row["shard"] for row in published["errors"]} == {"00007.tar", "00008.tar", "00009.tar"}


def test_a_worker_that_dies_between_its_write_and_its_answer_leaves_no_second_set_of_rows(cluster, source, expected, tmp_path, monkeypatch):
    """T5: what a replay writes goes under the same names, and counts once."""
    undisturbed = on_ray.explain_tasks
    mark = tmp_path / "died"

    def lossy(tasks, read, load, land, *rest):
        def landed(row: dict) -> dict:
            receipt = land(row)
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return receipt

        return undisturbed(tasks, read, load, landed, *rest)

    monkeypatch.setattr(on_ray, "explain_tasks", lossy)
    assert explain.run(job(source, tmp_path / "out", **ASKED)).complete
    assert mark.exists()
    assert len(list(tmp_path.glob("out/tasks/**/receipt.json"))) == 6
    assert content(tmp_path / "out") == expected


ALONE = """
from cluster.connect import connected
with connected():
    import ray, sys
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
STRANGER = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print('in', ray.cluster_resources())"


def listening(pids: list[int]) -> set[str]:
    """The addresses, as the kernel writes them, on which processes wait for connections."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}  # 127.0.0.1, the same as IPv6, and ::1


def test_an_embedded_ray_listens_on_this_machine_alone_and_without_its_token_answers_nobody():
    """There is no dashboard either."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen([sys.executable, "-c", ALONE], env=plain, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        address = host.stdout.readline().strip()
        started = [path.read_text() for pid in below(host.pid, "") if (path := Path(f"/proc/{pid}/cmdline")).exists()]
        assert any("raylet" in line for line in started)
        open_to = listening([host.pid, *below(host.pid, "")])
        assert open_to and open_to <= LOOPBACK
        # What Ray calls its dashboard runs all the same, and counts usage: no page, no jobs to submit.
        assert all("--modules-to-load=UsageStatsHead" in line for line in started if "dashboard/dashboard.py" in line)
        plain["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # without it a stranger does not even look for Ray at 127.0.0.1
        tokens = {}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        line, pipes = [sys.executable, "-c", STRANGER, address], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        strangers = [subprocess.Popen(line, env={**plain, **token}, **pipes) for token in tokens]
        for stranger in strangers:
            said, complaint = stranger.communicate(timeout=300)
            assert stranger.returncode != 0
            assert "in {" not in said
            assert "ConnectionError" in complaint or "oken" in complaint


class Allocating:
    """A stage that takes and frees large blocks, as a network does; its receipt is the pages that the system had to give it anew."""

    def __init__(self):
        keep_freed_memory()

    def __call__(self, row: dict) -> dict:
        import resource

        def faults_of(rounds: int) -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(rounds):
                torch.ones(BLOCK // 4)  # float32
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults_of(ROUNDS)
        return {"task": row["task"], "faults": faults_of(ROUNDS)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is glibc on Linux alone")
def test_a_worker_keeps_the_memory_that_it_frees(cluster):
    shard = Shard("tar", "s", ("memory://s",), 0)
    tasks = [Task.of(shard, Index("identity", 2, 2), i, i + 1).to_json() for i in range(2)]
    land = lambda row: {"receipt": str(row["faults"])}  # noqa: E731
    faults = [int(text) for text in on_ray.explain_tasks(tasks, lambda row: row, Allocating, land, 2, 0, 60.0)]
    assert max(faults) < ROUNDS * BLOCK / os.sysconf("SC_PAGESIZE") / 2, "pages of every block, if it gave them back"


class Recording:
    """A stage that takes its time to load, and names its process in the receipt."""

    def __init__(self, gate: Path, workers: int):
        self.gate, self.workers = gate, workers
        (gate / str(os.getpid())).touch()

    def __call__(self, row: dict) -> dict:
        while len(list(self.gate.iterdir())) < self.workers:  # a worker that holds two tasks while another has none would wait for ever
            time.sleep(0.01)
        return {"task": row["task"], "worker": os.getpid()}


@pytest.mark.parametrize("tasks", [2, 3])
def test_no_worker_takes_a_second_task_while_another_has_none(cluster, tmp_path, tasks):
    shard = Shard("tar", "s", ("memory://s",), 0)
    texts = [Task.of(shard, Index("identity", tasks, tasks), i, i + 1).to_json() for i in range(tasks)]
    land = lambda row: {"receipt": str(row["worker"])}  # noqa: E731
    workers = Counter(on_ray.explain_tasks(texts, lambda row: row, partial(Recording, tmp_path, 2), land, 2, 0, 120.0))
    assert len(workers) == 2 and max(workers.values()) <= tasks - 1
