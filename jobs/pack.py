"""A dataset directory in its official layout -> WebDataset shards with labels and annotations.

python -m jobs.pack --layout cub --root CUB_200_2011 --out s3://bucket/cub
"""

import sys
from functools import partial

from cluster.connect import executor_for
from pipeline.datasets.layouts import LAYOUTS
from pipeline.datasets.packing import Pack, pack
from pipeline.refusal import counted
from pipeline.run.exit_codes import CODES, exit_code_of
from pipeline.spec.command_line import command_line

FEW = 3  # classes without an image that the last line names
EPILOGUE = (
    "layouts: "
    + "; ".join(
        " or ".join((name, *layout.aliases)) + (f" (--level {' | '.join(layout.levels)})" if layout.levels else "")
        for name, layout in LAYOUTS.items()
    )
    + f"\n\n{CODES}"
)


def run(job: Pack) -> dict:
    """Carry out a job on the Ray it finds, or in this process where it asks for no workers; returns the content of pack.json."""
    with executor_for(job.workers) as executor:
        return pack(job, partial(executor.map, workers=job.workers))


def main(arguments: list[str] | None = None) -> int:
    """Run the job a command line describes; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(Pack, "jobs.pack", arguments, EPILOGUE)))


def run_and_report(job: Pack) -> int:
    """Carry out a job and print its counts; returns the exit code."""
    content = run(job)
    splits = ", ".join(f"{sums['images']} {split}" for split, sums in content["splits"].items())
    empty = content["empty_classes"]
    names = " ".join(empty[:FEW]) + (" ..." if len(empty) > FEW else "")
    print(
        f"packed {counted(content['images'], 'images')} ({splits}) of {counted(content['classes'], 'classes')} "
        f"in {counted(len(content['shards']), 'shards')} below {job.out}, {counted(len(content['problems']), 'problems')}"
        + (f", {counted(len(empty), 'classes')} without an image ({names})" if empty else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
