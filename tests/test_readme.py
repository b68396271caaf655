"""Every command and every example in the README runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import layouts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder that looks like the project's root, so that what the commands write stays out of it; `make demo` has run there."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("jobs", "pipeline", "cluster"):
        (folder / name).symlink_to(ROOT / name)
    layouts.cub(folder / "CUB_200_2011")
    recipe = re.search(r"^demo:.*\n\t\$\(RUN\) (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    return folder, run(folder, f"python {recipe}")


def run(folder: Path, command: str) -> str:
    words = shlex.split(command)
    words[0] = sys.executable if words[0] == "python" else words[0]
    environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "RAY_worker_niceness": "0"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_come_first():
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_ends_with_an_answer_and_counts(home):
    folder, told = home
    assert "share_in_box" in told and "answers_apart" in told
    assert re.search(r"240 of 240 images explained, 0 failed", told.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.ray
def test_every_other_command_runs(home):
    folder, _ = home
    for command in COMMANDS:
        if command.startswith("python "):
            assert run(folder, command)
        else:
            assert command.split()[0] == "make" or command.startswith("ray job submit"), "tested by CI and by test_ray"


@pytest.mark.slow
@pytest.mark.ray
def test_the_examples_in_python_run_one_after_the_other(home):
    folder, _ = home
    for command in COMMANDS:
        if "jobs.explain --source 'out" in command and not (folder / "out" / "atlas").exists():
            run(folder, command)
    for block in blocks("python"):
        assert run(folder, f"python -c {shlex.quote(block)}")


def test_the_readme_names_every_method_target_metric_and_table():
    from pipeline.methods import METHODS
    from pipeline.metrics import METRICS
    from pipeline.tables.schema import TABLES
    from pipeline.targets import TARGETS

    for name in [*METHODS, *TARGETS, *METRICS, *TABLES]:
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", README), name


def test_the_readme_names_every_layout():
    from pipeline.datasets.layouts import LAYOUTS

    assert set(re.findall(r"^\| `(\w+)` \|", README[README.index("| layout |") :].split("\n\n")[0], re.MULTILINE)) == set(LAYOUTS)
