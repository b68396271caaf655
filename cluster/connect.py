"""The choice where a job runs: in this process, on the cluster it was submitted to, or on a Ray of its own on this machine."""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.run.executor import Executor

log = logging.getLogger(__name__)
LEVEL = "RAY_BACKEND_LOG_LEVEL"
STDERR = 2
# An actor computes on a thread of its own. In an arena of its own glibc gives large blocks back, and the system clears each page anew.
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}


@contextmanager
def executor_for(workers: int | None, device: str | None = None) -> Iterator[Executor]:
    """Decide where a job runs, here alone: in this process where it asks for 0 workers, or else on the Ray it finds.

    Parameters:
        workers: as many as there are GPUs, or CPUs, where it is None.
        device: where its networks run; None where it has none, and then torch is not even looked for.
    """
    if workers == 0:
        from pipeline.run import in_process

        yield Executor.of(in_process, 1, _own_gpus() if device else 0, device=device or "cpu")
        return
    from pipeline.run import on_ray

    with connected():
        counts = resources()
        yield Executor.of(on_ray, counts["cpus"], counts["gpus"], workers, device or "cpu")


def _own_gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster named by RAY_ADDRESS (set inside submitted jobs), or start an embedded Ray of this process.

    A Ray started here is stopped here; one that was there before is left running. An embedded one listens on this machine alone and
    answers only to a token made for it (unless Ray was imported before).
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        loopback()
        token()
    import ray

    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    of_cluster: dict[str, Any] = {"runtime_env": {"env_vars": ONE_ARENA}}
    with _quiet_core(), _environment({} if address else ONE_ARENA):
        ray.init(address=address or "local", log_to_driver=True, logging_level=logging.WARNING, **(of_cluster if address else own))
    context = ray.data.DataContext.get_current()
    # Our own progress counts images; Ray's would count blocks. The longest task must fit well below the no-progress limit.
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = 4 * 3600
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have the processes that are started meanwhile see these variables, where the user has not set them."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _quiet_core() -> Iterator[None]:
    """Have the C++ part of Ray that is started in this process meanwhile log fatal errors alone; other errors are raised anyway.

    Ray Data builds every actor from two references, whatever its arguments are, and of the first one Ray's core writes that a restart may
    fail, as it would if nobody kept the references. Ray Data keeps them for as long as its actors live.
    """
    if LEVEL in os.environ:
        yield
        return
    # Ray's own processes are started with os.environ, in which it is not: they log as ever.
    os.putenv(LEVEL, "fatal")
    try:
        with _without_line(f"from environment variable {LEVEL}"):
            yield
    finally:
        os.unsetenv(LEVEL)


@contextmanager
def _without_line(words: str) -> Iterator[None]:
    """Hold back the standard error of C++ meanwhile, and pass it on afterwards without lines that hold these words."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        stderr_copy = os.dup(STDERR)
        os.dup2(sink.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr_copy, STDERR)
            os.close(stderr_copy)
            sink.seek(0)
            os.write(STDERR, b"".join(line for line in sink if words.encode() not in line))


def loopback() -> None:
    """Have the Ray that this process will start listen on 127.0.0.1 alone, unless it was imported before."""
    # Whatever address Ray is given it finds the machine's own instead, and listens to the network, unless it is told that this is no
    # system for clusters: the switch is named after those for which that is the default.
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def token() -> None:
    """Have the Ray that this process will start ask for a token made here, unless it is told otherwise or was imported before."""
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:  # Ray looks once, when it is imported
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def resources() -> dict[str, int]:
    """CPUs and GPUs of the connected cluster."""
    import ray

    totals = ray.cluster_resources()
    return {"cpus": max(1, int(totals.get("CPU", 1))), "gpus": int(totals.get("GPU", 0))}
