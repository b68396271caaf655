"""New metrics of maps that a published run already holds: the maps are read, not computed again.

python -m jobs.score --out s3://b/atlas --metrics ad ai ag
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from jobs import explain
from pipeline import tables
from pipeline.metrics import METRICS
from pipeline.plan import rescore
from pipeline.reduce.publish_run import PublishResult
from pipeline.refusal import Refusal
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line

if TYPE_CHECKING:  # its module imports this one
    from jobs.reduce import Reduce


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score the maps of a published run as they are stored, and publish a run that holds the new metrics beside all it held."""

    out: str
    """Where the tables are."""
    metrics: tuple[str, ...]
    """Metrics by name, `all`, or family:NAME; name(setting=value) sets, alias=name(...) renames."""
    metric_args: tuple[str, ...] = ()
    """Settings of metrics: pxap.bins=2000 ..."""
    name: str = "default"
    """The run published under this name."""
    run: str | None = None
    """Any run by its id; the one published under its name is left alone, so it takes --as."""
    as_: Annotated[str | None, arg(name="as")] = None
    """Name the new run is published under; that of the old one by default."""
    recompute: bool = False
    """Compute the maps again and score them before they are rounded to 8 bits, as jobs.explain does."""
    source: tuple[str, ...] = ()
    """Where the shards are now, if not where the run has read them."""
    weights: str | None = None
    """Where the same weights are now, if not where the run has read them."""
    plugins: tuple[str, ...] = ()
    """Where the modules of your own are now, if not where the run has found them, and any with more metrics: all that are needed."""
    batch_size: str | None = None
    """As for jobs.explain; the run's own by default, like all below."""
    workers: int | None = None
    """As for jobs.explain."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """As for jobs.explain."""
    delta: bool = False
    """As for jobs.explain; a run that was made with it is scored with it."""
    single_writer: bool = False
    """As for jobs.explain; promised anew each time."""
    dry: bool = False
    """Say what would be computed, and stop."""
    log: Literal["text", "json"] = "text"
    """As for jobs.explain."""


def run(score: Score) -> PublishResult | None:
    """Carry out a job on the Ray it finds, or in this process where it asks for no workers."""
    base, changes = base_of(score)
    changes |= {key: value for key in ("batch_size", "device") if (value := getattr(score, key)) is not None}
    return explain.carry_out(rescore.check_rescoring(base, score.metrics, score.metric_args, score.recompute, **changes))


def base_of(job: "Score | Reduce") -> tuple[tables.Run, dict[str, Any]]:
    """The published run that a job adds to, and the fields of the run's own job that this one changes.

    Raises:
        Refusal: where the run is none that is published under its name, and the new one has no other.
    """
    base = tables.open(job.out, job.name, job.run)
    name = job.as_ or (base.manifest["job"]["name"] if job.run else job.name)
    if job.run and not job.as_ and tables.open(job.out, name).run_id != job.run:
        raise Refusal(f"run {job.run} is not the one published as {name!r} any more; give the new run another name with --as")
    settings = {key: getattr(job, key) for key in ("source", "weights", "plugins", "workers")}
    changes = {key: value for key, value in settings.items() if value not in (None, ())}
    changes |= {"delta": True} if job.delta else {}
    return base, changes | {"name": name, "single_writer": job.single_writer, "dry": job.dry, "log": job.log}


def main(arguments: list[str] | None = None) -> int:
    """Run the job a command line describes; returns the exit code."""
    return exit_code_of(
        lambda: explain.report(run(command_line(Score, "jobs.score", arguments, explain.epilogue_of({"Metrics": METRICS}))))
    )


if __name__ == "__main__":
    sys.exit(main())
