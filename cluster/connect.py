"""The Ray a job runs on: the cluster it was submitted to, or one of its own on this machine."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


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
    local = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(address=address or "local", log_to_driver=True, logging_level=logging.WARNING, **local)
    context = ray.data.DataContext.get_current()
    # Our own progress counts images; Ray's would count blocks. The longest task must fit well below the no-progress limit.
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = 4 * 3600
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


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

    found = ray.cluster_resources()
    return {"cpus": max(1, int(found.get("CPU", 1))), "gpus": int(found.get("GPU", 0))}
