"""The rules of the house, held by reading the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"ray", "scipy", "skimage", "sklearn", "duckdb", "tyro", "pandas"}


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def touches(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")}


@pytest.mark.parametrize("path", files("pipeline/methods") + files("pipeline/metrics"), ids=str)
def test_methods_and_metrics_know_the_families_and_nothing_else_of_ours(path):
    if path.name != "__init__.py":
        known = (
            ("pipeline.families", "pipeline.maps.boxes", "pipeline.maps.average_precision")
            if "metrics" in path.parts
            else ("pipeline.families",)
        )
        assert not {name for name in touches(imports(path), "pipeline") if not name.startswith(known)}


@pytest.mark.parametrize("name", ["boxes", "average_precision"])
def test_what_metrics_know_beside_the_families_is_plain_numbers(name):
    assert imports(ROOT / "pipeline" / "maps" / f"{name}.py", top_only=True) <= {"collections.abc", "collections.abc.Iterable", "numpy"}


@pytest.mark.parametrize("path", files("pipeline"), ids=str)
def test_nothing_in_pipeline_knows_jobs_or_cluster(path):
    assert not touches(imports(path), "jobs", "cluster")


@pytest.mark.parametrize("path", files("pipeline"), ids=str)
def test_ray_is_imported_by_the_flow_alone(path):
    assert path.name in ("flow.py", "on_ray.py") or not touches(imports(path), "ray")


@pytest.mark.parametrize("path", files("pipeline"), ids=str)
def test_heavy_libraries_are_imported_inside_the_function_that_needs_them(path):
    assert not {name.split(".")[0] for name in imports(path, top_only=True)} & HEAVY or path.stem == "train", (
        "a command may name its command line"
    )


def test_the_engine_and_the_methods_import_without_ray():
    code = "import sys; sys.modules['ray'] = None; import pipeline; pipeline.explain; import pipeline.run.execute; print('fine')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "fine\n"


def test_what_lists_decodes_lands_packs_and_publishes_imports_without_torch():
    """A node has several such processes for every one that explains; and a command that only looks should start at once."""
    light = (
        "pipeline.run.on_ray, pipeline.run.in_process, pipeline.reduce.compact, pipeline.datasets.packing, jobs.gc, jobs.pack, jobs.status"
    )
    code = f"import sys; sys.modules['torch'] = None; import {light}; print('fine')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "fine\n"


@pytest.mark.parametrize("path", files("pipeline/methods"), ids=str)
def test_a_method_is_one_short_file(path):
    assert len(path.read_text().splitlines()) <= 85


@pytest.mark.parametrize("path", files("pipeline/metrics"), ids=str)
def test_a_metric_is_one_short_file(path):
    assert len(path.read_text().splitlines()) <= 40


@pytest.mark.parametrize("path", files("pipeline") + files("jobs") + files("cluster"), ids=str)
def test_no_file_is_a_drawer(path):
    assert path.stem not in {"utils", "helpers", "common", "manager", "base", "misc"}
