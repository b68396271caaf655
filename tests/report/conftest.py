"""A run with hostile names, its report, and a browser."""

from pathlib import Path

import pytest

from jobs import explain
from pipeline import tables
from pipeline.report.job import Report
from pipeline.report.write import write
from tests.jobs import scoring_job
from tests.report.browser import Watched, path_of_chromium
from tests.report.folder import CLASSES, KEY
from tests.shards import good, tar_bytes

METHODS = ("grad_cam", "layer_cam", "eigen_cam", "gradient")


@pytest.fixture(scope="session")
def out(tmp_path_factory) -> Path:
    """A published run of 40 images, two of them without a picture in the end; one key and some classes hold markup."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "shards").mkdir()
    for shard in range(2):
        samples = [(KEY if shard + i == 0 else f"image{shard}{i:02}", good(20 * shard + i)) for i in range(20)]
        (folder / "shards" / f"{shard}.tar").write_bytes(tar_bytes(samples))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    metrics = ("energy", "complexity", "pointing", "deletion(steps=8)", "box_acc(step=0.1)")
    job = scoring_job(
        f"{folder}/shards/*.tar", folder / "out", metrics, methods=METHODS, classes=f"{folder}/classes.txt", backbone="tests.tiny:sharp"
    )
    explain.run(job)
    return folder / "out"


@pytest.fixture(scope="session")
def run(out) -> tables.Run:
    return tables.open(str(out))


@pytest.fixture(scope="session")
def report(out, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write(Report(out=str(out), to=str(folder)))
    return folder


@pytest.fixture(scope="session")
def chromium():
    path = path_of_chromium()
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def wide(chromium):
    """A page on a large screen."""
    with chromium.new_context(viewport={"width": 1400, "height": 900}) as context:
        yield Watched(context.new_page())
