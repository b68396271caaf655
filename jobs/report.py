"""Write a published run as a folder that a browser opens: numbers with intervals, classes, images and their maps.

python -m jobs.report --out out/atlas
"""

import sys

from pipeline.report.job import Report
from pipeline.report.write import write
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line


def main(arguments: list[str] | None = None) -> int:
    """Write the report a command line describes; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(Report, "jobs.report", arguments)))


def run_and_report(job: Report) -> int:
    """Write the report and print where it is; returns the exit code."""
    written = write(job)
    if written.without_pictures:
        print(f"warning: {written.without_pictures}", file=sys.stderr)
    shown = f"{len(written.selection.image_ids)} of {written.selection.total} images shown ({written.selection.how})"
    print(f"{shown}, {written.size / 1e6:.1f} MB; open {written.url}/index.html in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
