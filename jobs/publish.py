"""Publish a run that exists as Delta tables, one for each of its tables, at addresses that stay while runs change.

python -m jobs.publish --out s3://b/atlas              # the run published last
python -m jobs.publish --out s3://b/atlas --run RUN    # an older one: back to it
"""

import sys
from dataclasses import dataclass

from pipeline import tables
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.tables import publish
from pipeline.tables.lake.commit import commit_run, place


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Commit the files of a run as Delta tables OUT/lake/NAME/TABLE. What a job with --delta does at its end, for any run at any time."""

    out: str
    """Where the tables are."""
    name: str = "default"
    """The name whose tables these are."""
    run: str | None = None
    """A run by its id, which becomes the one published under the name, in current.json too; by default the one that is."""


def main(arguments: list[str] | None = None) -> int:
    """Publish the run a command line describes; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(Publish, "jobs.publish", arguments)))


def run_and_report(job: Publish) -> int:
    """Publish the run and tell the versions of its tables; returns the exit code."""
    before = publish.current(job.out).get(job.name)
    run = place(tables.open(job.out, job.name, job.run), job.name)
    publish.flip(job.out, job.name, run.run_id, before)
    for commit in commit_run(run, job.name):
        print(f"{commit.table}  version {commit.version}{'' if commit.new else ', as before'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
