"""An explaining actor outlives the node that it was started on, and the screen of a job on a cluster stays readable."""

import os
import signal
import time

import pytest

from pipeline import backbones
from tests.chaos import DRIVERS, drive
from tests.gate import ADDRESS, Gate, gate
from tests.jobs import content, job, undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NETWORK = "tests.gate:build_asking_in_its_first_layer"
ASKED = {"backbone": NETWORK, "methods": ("grad_cam",), "targets": ("label",)}


def waiting(kept: Gate, gone: set[int]) -> int:
    """The process that is held up at the gate, none of those that are gone."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        found = [process for process in kept.held(0.5) if process not in gone]
        if found:
            return found[0]
    raise AssertionError("no actor came to the gate")


def test_an_actor_restarts_after_the_node_that_started_it_is_gone(source, tmp_path):
    """Twice: on another node when its own is lost, with whatever of the ledger and of its arguments lay there, and where it was killed."""
    from cluster.connect import token

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_worker_niceness", "OMP_NUM_THREADS", "RAY_ADDRESS"):
            patch.setenv(name, "")  # to be put back as it was
            patch.delenv(name)
        expected = undisturbed(job(source, tmp_path / "undisturbed", **ASKED))
        token()
        from ray.cluster_utils import Cluster

        os.environ |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        with gate() as kept:
            backbones.load(NETWORK, image_size=64)
            loads = kept.begun  # passes of every actor that starts
            kept.restart()
            kept.open(loads)  # so the first actor is held up over its first images
            # The driver is on the head, where nothing may explain.
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            try:
                first = cluster.add_node(num_cpus=1)
                line = ["--backbone", NETWORK, "--image-size", "64", "--task-images", "2", "--workers", "1"]
                line += ["--methods", "grad_cam", "--targets", "label", "--source", source, "--out", str(tmp_path / "out")]
                environment = {**os.environ, "RAY_ADDRESS": cluster.address, ADDRESS: ""}
                driver = DRIVERS.Process(target=drive, args=(line, environment, tmp_path / "log"))
                driver.start()
                gone = {waiting(kept, set())}
                cluster.add_node(num_cpus=1)
                cluster.remove_node(first, allow_graceful=False)
                kept.open(kept.begun + loads)
                again = waiting(kept, gone)
                os.kill(again, signal.SIGKILL)
                kept.open(kept.begun + loads)
                waiting(kept, gone | {again})
                kept.open()
                driver.join(240)
                assert driver.exitcode == 0, (tmp_path / "log").read_text()
            finally:
                kept.open()
                driver.kill()
                cluster.shutdown()
    assert content(tmp_path / "out") == expected
    shown = (tmp_path / "log").read_text()
    assert "constructor arguments" not in shown and "Progress bars" not in shown
    assert not [each for each in shown.splitlines() if each.startswith("{")]
