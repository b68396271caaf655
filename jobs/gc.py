"""Remove all that no kept run or version refers to: tasks' files, superseded runs, and runs that were begun and never finished.

python -m jobs.gc --out s3://b/atlas            # prints the folders it would remove
python -m jobs.gc --out s3://b/atlas --delete
"""

import sys
from dataclasses import dataclass

from pipeline.refusal import Amount, Count, check_numbers, counted
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.tables.gc import collect_garbage

PATHS_PRINTED = 20


@dataclass(frozen=True, kw_only=True)
class Gc:
    """Remove what no kept run and no kept version of a Delta table refers to; without --delete only print them. A job may be running meanwhile."""

    out: str
    """Where tables go: the --out of the jobs."""
    keep: Count = 7
    """How many runs of each name and versions of each Delta table are kept, the last ones, and the runs that these versions refer to; what
    is published is always kept."""
    runs: tuple[str, ...] = ()
    """Run ids to keep besides."""
    min_age: Amount = 86400.0
    """Nothing that was written less than so many seconds ago is removed: a running job may need it."""
    delete: bool = False
    """Remove, instead of saying what would be removed."""

    def __post_init__(self):
        check_numbers(self)


def main(arguments: list[str] | None = None) -> int:
    """Collect the garbage a command line describes; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(Gc, "jobs.gc", arguments)))


def run_and_report(job: Gc) -> int:
    """Collect the garbage and print the removed folders; returns the exit code."""
    garbage = collect_garbage(job.out, job.keep, job.runs, job.min_age, job.delete)
    folders = (*garbage.runs, *garbage.tables, *garbage.tasks)
    lines = [f"{log.table}  versions {log.dropped[0]} to {log.dropped[-1]}" for log in garbage.logs if log.dropped]
    lines += [f"{folder.path}  {folder.size:,} bytes" for folder in folders]
    print(*lines[:PATHS_PRINTED], *([f"... and {len(lines) - PATHS_PRINTED:,} more"] if len(lines) > PATHS_PRINTED else []), sep="\n")
    verb = "removed" if job.delete else "would remove"
    versions = f"{counted(garbage.versions, 'versions')} of Delta tables, " if garbage.versions else ""
    print(
        f"{verb} {counted(len(garbage.runs), 'runs')} and {counted(len(garbage.tasks), 'tasks')}, {versions}{garbage.size:,} bytes; "
        f"kept {counted(len(garbage.kept_runs), 'runs')} and {counted(garbage.kept_tasks, 'tasks')}"
        + ("" if job.delete else "; --delete does it")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
