"""`atlas NAME ...`, or `python -m jobs NAME ...`, runs a job as `python -m jobs.NAME ...` does; without a name it lists the jobs."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pipeline.refusal import choose
from pipeline.run.exit_codes import exit_code_of

FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob("[!_]*.py"))}


def listing() -> str:
    """Every job with the first sentence of its docstring, a line each."""
    docstrings = {name: ast.get_docstring(ast.parse(path.read_text())) or "" for name, path in FILES.items()}
    return "\n".join(f"atlas {name:8} {docstring.partition(chr(10))[0]}" for name, docstring in docstrings.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the first argument names with the other arguments; returns the exit code, 2 for a name that is no job's."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(listing())
        return 0
    return exit_code_of(lambda: import_module(f"jobs.{choose(name, FILES, 'job')}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
