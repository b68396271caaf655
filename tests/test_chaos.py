"""A slice of `make chaos`: jobs through killed actors, nodes and drivers, and a store of which every twentieth request fails."""

import pytest

from tests.chaos import FAULTS, Chaos

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def chaos(s3_server, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "RAY_worker_niceness", "OMP_NUM_THREADS", "RAY_ADDRESS"):
            patch.setenv(name, "")  # to be put back as it was
            patch.delenv(name)
        with Chaos(s3_server, tmp_path_factory.mktemp("chaos")).checked() as checked:
            yield checked


# Runs that between them lose a node as the first pass begins and in the middle, an actor early, and a driver at work and when all is landed.
SEEDS = (0, 3, 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_published_in_the_end_is_what_an_undisturbed_job_publishes(chaos, seed):
    injected = chaos.run(seed)
    assert sum(injected[kind] for kind in FAULTS) > 0
    assert any(kind.startswith("storage") for kind in injected)
