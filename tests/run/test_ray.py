"""The same job on a real Ray: several workers, a bucket behind a real S3 server, a submitted job with a token, restarts."""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobs import explain, score
from pipeline import tables
from tests.chaos import below
from tests.jobs import content, job, undisturbed
from tests.registries import registries

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inline(source, tmp_path_factory):
    return undisturbed(job(source, tmp_path_factory.mktemp("inline")))


def test_two_workers_publish_the_same_bits_of_maps_metrics_and_summaries(cluster, source, tmp_path):
    """One does with every CAM, below, over the shards in another order."""
    settings = {
        "methods": ("grad_cam", "eigen_cam"),
        "metrics": ("energy", "pointing_blob", "pxap", "box_acc(step=0.1)", "deletion(steps=4)", "remove"),
    }
    assert explain.run(job(source, tmp_path / "workers", workers=2, **settings)).complete
    assert content(tmp_path / "workers") == undisturbed(job(source, tmp_path / "inline", **settings))


def test_scores_of_stored_maps_have_the_same_bits_on_workers(cluster, source, tmp_path):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    explain.run(job(source, tmp_path / "inline", methods=("grad_cam",), metrics=("energy",)))
    shutil.copytree(tmp_path / "inline", tmp_path / "workers")  # the same maps: that workers make them is tested below
    for out, workers in (("inline", 0), ("workers", 1)):
        score.run(score.Score(out=str(tmp_path / out), metrics=("ad_ai_ag", "pxap", "iou"), workers=workers))
    torch.set_num_threads(threads)
    found, expected = (content(tmp_path / out) for out in ("workers", "inline"))
    assert found == expected


def test_shard_order_and_restarts_change_nothing(cluster, source, inline, tmp_path):
    """The shards named backwards, half of the receipts lost between two starts."""
    shards = sorted(Path(source).parent.glob("*.tar"), reverse=True)
    assert explain.run(job([str(shard) for shard in shards], tmp_path, workers=1)).complete
    assert content(tmp_path) == inline
    for receipt in sorted(tmp_path.glob("tasks/**/receipt.json"))[::2]:
        shutil.rmtree(receipt.parent)
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "current.json").unlink()
    explain.run(job(source, tmp_path, workers=1))
    assert content(tmp_path) == inline


@pytest.mark.parametrize("own", [str(ROOT / "tests" / "own.py"), "tests.own"])
def test_methods_of_the_user_s_own_reach_every_worker(cluster, source, tmp_path, own):
    """A file goes along as text; a module is imported where it arrives. Metrics of theirs reach the tasks that summarise, too."""
    import torch

    settings = {"methods": ("mean_cam", "deep_lift", "grad_cam"), "metrics": ("peak", "energy"), "plugins": (own,)}
    with registries():
        assert explain.run(job(source, tmp_path / "workers", workers=1, **settings)).complete
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with registries():
        explain.run(job(source, tmp_path / "inline", **settings))
    torch.set_num_threads(threads)
    assert content(tmp_path / "workers") == content(tmp_path / "inline")


def test_a_killed_actor_changes_nothing(cluster, source, inline, tmp_path, monkeypatch):
    """One explaining actor is killed when the first receipt has come; what it held is done again."""
    from pipeline.run import on_ray

    undisturbed, killed = on_ray.explain_tasks, []

    def disturbed(*arguments):
        for receipt in undisturbed(*arguments):
            if not killed:
                killed.append(below(os.getpid(), "ray::MapWorker")[0])
                os.kill(killed[0], signal.SIGKILL)
            yield receipt

    monkeypatch.setattr(on_ray, "explain_tasks", disturbed)
    assert explain.run(job(source, tmp_path, workers=1, task_images=1)).complete
    assert killed
    monkeypatch.undo()
    explain.run(job(source, tmp_path / "undisturbed", task_images=1))
    assert content(tmp_path) == content(tmp_path / "undisturbed")


def test_the_same_job_over_s3_publishes_the_same_tables(cluster, source, inline, s3, tmp_path):
    from pipeline.storage import filesystem, join
    from pipeline.tables.files import write_bytes

    for shard in Path(source).parent.glob("*.tar"):
        write_bytes(join(s3, "shards", shard.name), shard.read_bytes())
    outcome = explain.run(job(f"{s3}/shards/{{00000..00002}}.tar", f"{s3}/atlas", workers=1))
    assert outcome.complete
    assert content(f"{s3}/atlas") == inline
    assert not explain.run(job(f"{s3}/shards/*.tar", f"{s3}/atlas", workers=1)).new
    fs, path = filesystem(f"{s3}/atlas/current.json")
    assert json.loads(fs.cat_file(path)) == {"default": outcome.run_id}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def head(tmp_path):
    """A Ray head of its own on loopback, with a dashboard that wants a token; killed with all of its processes."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    environment["RAY_worker_niceness"] = "0"  # by default 15, which gets little of a busy machine
    environment.pop("RAY_ADDRESS", None)
    port, dashboard = free_port(), free_port()
    ray = str(Path(sys.executable).with_name("ray"))
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: the path of a socket has at most 107 characters
    settings = {"node-ip-address": "127.0.0.1", "port": port, "num-cpus": 2, "temp-dir": folder}
    settings |= {"include-dashboard": "true", "dashboard-host": "127.0.0.1", "dashboard-port": dashboard}
    settings |= {"dashboard-agent-listen-port": free_port()}  # its default is taken by the Ray of the tests above
    command = [ray, "start", "--head", "--block", "--disable-usage-stats", *(f"--{key}={value}" for key, value in settings.items())]
    with open(tmp_path / "head.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{dashboard}", environment, folder
    finally:
        for process in below(server.pid, ""):  # asked to end, it takes half a minute
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def submitted(address: str, environment: dict, *command: str) -> subprocess.CompletedProcess:
    """`ray job submit` from the project's root, tried again until the head and its job agent are up."""
    ray = str(Path(sys.executable).with_name("ray"))
    line = [ray, "job", "submit", "--address", address, "--working-dir", ".", "--", *command]
    for _ in range(30):
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        if not any(sign in done.stderr for sign in ("Failed to connect", "No available agent")):
            break
    return done


def test_ray_job_submit_publishes_the_same_tables_from_a_small_working_directory(source, inline, head, tmp_path):
    address, environment, folder = head
    plain = [sys.executable, "-m", "jobs.explain", "--backbone", "tests.tiny:build", "--image-size", "64", "--methods", "family:cam"]
    plain += ["--targets", "label", "finer", "--task-images", "2", "--workers", "1", "--source", source, "--out"]
    twice = f"{shlex.join([*plain, 'out/atlas'])}; test $? = 2 && {shlex.join([*plain, str(tmp_path / 'out')])}"
    done = submitted(address, environment, "sh", "-c", twice)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "absolute path" in done.stdout + done.stderr, "a relative place is refused"
    assert "12 of 12 images explained" in done.stdout + done.stderr
    assert content(tmp_path / "out") == inline
    packages = list(folder.rglob("runtime_resources/working_dir_files/*.zip"))
    shipped = [p for p in folder.rglob("runtime_resources/working_dir_files/*") if p.is_dir()]
    assert shipped
    size = sum(f.stat().st_size for f in shipped[0].rglob("*") if f.is_file()) + sum(p.stat().st_size for p in packages)
    assert size < 5_000_000, f"the working directory shipped is {size / 1e6:.1f} MB"
    assert tables.open(str(tmp_path / "out")).manifest["counts"]["explained"] == 12
