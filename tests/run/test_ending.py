"""Every job ends alike: one line that says what went wrong, and an exit code that means something."""

from importlib import import_module
from pathlib import Path

import pytest

import jobs
from pipeline.refusal import Refusal
from pipeline.tables.publish import Overtaken, TooManyFailed
from pipeline.tables.receipts import Damaged

JOBS = sorted({path.stem for path in Path(jobs.__file__).parent.glob("*.py")} - {"__init__", "__main__"})


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("steps=0 is not a number of steps; write 1 or more"), 2),
        (Overtaken("another job has published"), 3),
        (TooManyFailed("9 of 10 images failed"), 3),
        (Damaged("tasks/ab/receipt.json is cut short"), 1),
        (OSError(28, "No space left on device"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_stops_a_job_is_one_line_and_a_code(name, error, code, monkeypatch, capsys):
    job = import_module(f"jobs.{name}")

    def fails(*_):
        raise error

    monkeypatch.setattr(job, "command_line", fails)
    assert job.main([]) == code
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and str(error) in line


def test_what_is_no_fault_of_the_run_is_not_hidden(monkeypatch):
    """A mistake of ours keeps its traceback."""
    job = import_module("jobs.status")
    monkeypatch.setattr(job, "command_line", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.main([])
