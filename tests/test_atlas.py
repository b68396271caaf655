"""The console script `atlas`, which `python -m jobs` is too."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from jobs.__main__ import FILES, main

ROOT = Path(__file__).parents[1]


def test_the_console_script_is_this_function():
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["atlas"].partition(":")
    assert getattr(import_module(module), name) is main


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_name_it_lists_every_job_a_line_each(arguments, capsys):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["atlas", name] for name in sorted(FILES)]
    assert all(len(line.split()) > 4 and len(line) <= 140 for line in lines)


def test_the_list_of_jobs_is_that_of_the_folder():
    assert {*FILES} == {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "__main__"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_job_gets_the_other_arguments(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"jobs.{name}" in capsys.readouterr().out


def test_a_jobs_exit_code_and_message_are_its_own(tmp_path, capsys):
    assert main(["status", "--out", str(tmp_path)]) == import_module("jobs.status").main(["--out", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and first.startswith("error: no job has run below")


@pytest.mark.parametrize(
    ("name", "hint"), [("explian", "did you mean explain"), ("__main__", "known: compare, demo, explain"), ("xyz", "known: compare")]
)
def test_a_name_that_is_no_jobs_is_refused_in_one_line(name, hint, capsys):
    assert main([name, "--out", "out"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and f"unknown job {name!r}; {hint}" in printed.err and not printed.out


def test_the_list_of_jobs_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['ray'] = None; sys.argv[1:] = []; from jobs.__main__ import main; sys.exit(main())"
    )
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert subprocess.run([sys.executable, "-m", "jobs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout == listed
