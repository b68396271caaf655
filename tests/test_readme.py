"""Every command and every example in the README and in docs/ runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import layouts

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]  # the README first: it makes the tables that the others read


def code(page: Path, language: str) -> str:
    """The blocks of a page in one language, one after the other."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))


COMMANDS = [line for page in PAGES for line in code(page, "sh").splitlines() if line]
EXAMPLES = [examples for page in PAGES if (examples := code(page, "python"))]
OURS = ("python -m ", "atlas ")
MAKING = ("atlas publish", "atlas reduce")  # what examples in Python read


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
    program, *words = shlex.split(command)
    words = [*{"python": [sys.executable], "atlas": [sys.executable, "-m", "jobs"]}[program], *words]
    environment = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "RAY_worker_niceness": "0"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_commands_come_first():
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.slow
@pytest.mark.ray
def test_the_demo_ends_with_an_answer_and_counts(home):
    folder, output = home
    assert "share_in_box" in output and "answers_apart" in output
    assert re.search(r"240 of 240 images explained, 0 failed", output.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.ray
def test_every_other_command_runs(home):
    folder, _ = home
    for command in COMMANDS:
        if command.startswith(OURS):
            assert run(folder, command)
        else:
            assert command.split()[0] == "make" or command.startswith("ray job submit"), "tested by CI and by test_ray"


@pytest.mark.slow
@pytest.mark.ray
def test_the_examples_in_python_run_one_after_the_other(home):
    folder, _ = home
    for command in COMMANDS:
        if ("explain --source 'out" in command and not (folder / "out" / "atlas").exists()) or command.startswith(MAKING):
            run(folder, command)
    for examples in EXAMPLES:
        assert run(folder, f"python -c {shlex.quote(examples)}")


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_no_query_reads_more_than_one_run():
    """Runs hold the same images again and again: a path over all of them counts every map several times."""
    assert not [page.name for page in PAGES if "runs/*" in page.read_text()]
