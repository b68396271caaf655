"""`python -m jobs` lists the jobs."""

import ast
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    print(f"python -m jobs.{path.stem:10} {ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]}")
