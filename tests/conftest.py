"""Where the tests find real data, and small things every test file may ask for."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.shards import dataset

pytest_plugins = ["tests.s3"]
REALDATA = Path(os.environ.get("ATLAS_REALDATA", Path(__file__).parents[1].parent / "shared" / "realdata"))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real images and weights; tests that need it skip where it is absent."""
    if not REALDATA.is_dir():
        pytest.skip(f"real images and weights are not at {REALDATA}; point ATLAS_REALDATA at them")
    return REALDATA


@pytest.fixture(scope="session")
def cluster(s3_server):
    """One embedded Ray for all tests that ask for one; its workers know the way to the S3 server."""
    from cluster.connect import connected
    from tests.s3 import environment_of

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**environment_of(s3_server), "RAY_worker_niceness": "0"}.items():
                patch.setenv(name, value)
            stack.enter_context(connected())
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """Good shards, shared by the tests of a file; a file whose tests change them has a `source` of its own."""
    return dataset(tmp_path_factory.mktemp("data") / "shards")


def pytest_collection_modifyitems(items):
    """Files with slow tests begin first, so that two processes end at the same time; a file's tests stay together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
