"""Tables computed from those of a published run: no image is read, and no network asked.

python -m jobs.reduce --out s3://b/atlas --analyses agreement disagreement
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from jobs import explain
from jobs.score import base_of
from pipeline.plan import rescore
from pipeline.reduce.analyses import ANALYSES
from pipeline.reduce.publish_run import PublishResult
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line


@dataclass(frozen=True, kw_only=True)
class Reduce:
    """Compute tables from those of a published run, and publish a run that holds them beside all it held."""

    out: str
    """Where the tables are."""
    analyses: tuple[str, ...]
    """Analyses by name, or `all`; name(setting=value) sets. Those that the run has stay."""
    analysis_args: tuple[str, ...] = ()
    """Settings of analyses: aggatt.metric=energy ..."""
    name: str = "default"
    """The run published under this name."""
    run: str | None = None
    """Any run by its id; the one published under its name is left alone, so it takes --as."""
    as_: Annotated[str | None, arg(name="as")] = None
    """Name the new run is published under; that of the old one by default."""
    source: tuple[str, ...] = ()
    """Where the shards are now, if not where the run has read them; they are listed."""
    weights: str | None = None
    """Where the same weights are now, if not where the run has read them."""
    plugins: tuple[str, ...] = ()
    """Where the modules of your own are now, if not where the run has found them."""
    workers: int | None = None
    """As for jobs.explain; the run's own by default, like all below."""
    delta: bool = False
    """As for jobs.explain; a run that was made with it is reduced with it."""
    single_writer: bool = False
    """As for jobs.explain; promised anew each time."""
    dry: bool = False
    """Say what would be computed, and stop."""
    log: Literal["text", "json"] = "text"
    """As for jobs.explain."""


def run(reduce: Reduce) -> PublishResult | None:
    """Carry out a job on the Ray it finds, or in this process where it asks for no workers."""
    base, changes = base_of(reduce)
    return explain.carry_out(rescore.check_reduction(base, reduce.analyses, reduce.analysis_args, **changes))


def main(arguments: list[str] | None = None) -> int:
    """Run the job a command line describes; returns the exit code."""
    epilogue = explain.epilogue_of({"Analyses": ANALYSES})
    return exit_code_of(lambda: explain.report(run(command_line(Reduce, "jobs.reduce", arguments, epilogue))))


if __name__ == "__main__":
    sys.exit(main())
