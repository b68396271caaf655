"""The rules of the house, held by reading the code."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (  # a room imports from the rooms before it alone; what lies loose under pipeline/ counts as a room
    "refusal",
    "storage",
    "progress",
    "maps",
    "tables",
    "monitor",
    "sources",
    "classes",
    "families",
    "methods",
    "metrics",
    "targets",
    "backbones",
    "spec",
    "engine",
    "score",
    "plan",
    "stages",
    "reduce",
    "compare",
    "run",
    "estimate",
    "report",
    "datasets",
    "train",
)
LOOSE = {"__init__", "storage", "refusal", "progress"}
REGISTRIES = {"methods", "metrics", "layouts", "analyses"}  # folders that grow by a file an entry
MOST_FILES, MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_CLASS = 13, 60, 150
LONG: dict[str, str] = {}  # each with its reason
# A worker that lists, reads, lands, packs or compacts has no torch, and a command that only looks starts at once.
LIGHT = (
    *("pipeline.refusal", "pipeline.storage", "pipeline.progress"),
    *("pipeline.spec.command_line", "pipeline.spec.job", "pipeline.spec.select"),
    *("pipeline.plan.census", "pipeline.plan.task", "pipeline.plan.state"),
    *("pipeline.run.on_ray", "pipeline.run.in_process", "pipeline.monitor.monitor", "pipeline.run.exit_codes"),
    *("pipeline.stages.read", "pipeline.stages.land", "pipeline.reduce.compact", "pipeline.datasets.packing", "pipeline.datasets.layouts"),
    *("pipeline.report.write", "jobs.gc", "jobs.pack", "jobs.publish", "jobs.report", "jobs.status"),
)
LIGHT_ROOMS = ("sources", "tables", "classes", "maps")  # every module of them
HEAVY = {"ray", "scipy", "skimage", "sklearn", "duckdb", "deltalake", "tyro", "pandas"}


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


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in touches(names, "pipeline") if "." in name} & {*FLOORS}


def touches(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names for prefix in prefixes if name == prefix or name.startswith(f"{prefix}.")}


@pytest.mark.parametrize("path", files("pipeline/methods") + files("pipeline/metrics"), ids=str)
def test_methods_and_metrics_know_the_families_and_nothing_else_of_ours(path):
    if path.name != "__init__.py":
        known = (
            ("pipeline.families", "pipeline.maps.boxes", "pipeline.maps.average_precision", "pipeline.maps.ranks")
            if "metrics" in path.parts
            else ("pipeline.families",)
        )
        assert not {name for name in touches(imports(path), "pipeline") if not name.startswith(known)}


@pytest.mark.parametrize("name", ["boxes", "average_precision", "ranks"])
def test_what_metrics_know_beside_the_families_is_plain_numbers(name):
    assert imports(ROOT / "pipeline" / "maps" / f"{name}.py", top_only=True) <= {"collections.abc", "collections.abc.Iterable", "numpy"}


@pytest.mark.parametrize("path", files("pipeline"), ids=str)
def test_nothing_in_pipeline_knows_jobs_or_cluster(path):
    assert not touches(imports(path), "jobs", "cluster")


def test_every_room_stands_on_a_floor_and_nothing_else_lies_loose():
    assert {path.stem for path in (ROOT / "pipeline").glob("*.py")} == LOOSE
    rooms = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert rooms | LOOSE - {"__init__"} == {*FLOORS} and len(FLOORS) == len({*FLOORS})


@pytest.mark.parametrize("path", [path for path in files("pipeline") if path.parent.name != "pipeline" or path.stem != "__init__"], ids=str)
def test_a_room_imports_from_the_floors_below_it_alone(path):
    room = module_of(path).split(".")[1]
    upward = rooms_of(imports(path)) - {room} - {*FLOORS[: FLOORS.index(room)]}
    assert not upward, f"{room} imports {upward}"


def test_the_modules_import_each_other_in_no_circle():
    modules = {module_of(path): path for path in files("pipeline")}
    packages = {module_of(path) for path in files("pipeline") if path.stem == "__init__"}
    graph = {name: (imports(path) & modules.keys()) - packages for name, path in modules.items() if name not in packages}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("folder", sorted({path.parent for path in files("pipeline")}), ids=str)
def test_a_folder_can_be_taken_in_at_a_glance(folder):
    registry = REGISTRIES & {folder.name, folder.parent.name}
    assert registry or len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= MOST_FILES


def test_no_function_and_no_class_is_long_but_those_with_a_reason():
    long = set()
    for path in files("pipeline") + files("jobs") + files("cluster"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                most = MOST_LINES_OF_A_CLASS if isinstance(node, ast.ClassDef) else MOST_LINES_OF_A_FUNCTION
                if node.end_lineno - node.lineno >= most:
                    long.add(f"{path.relative_to(ROOT)} {node.name}")
    assert long == LONG.keys()


@pytest.mark.parametrize("path", files("pipeline"), ids=str)
def test_ray_is_imported_by_the_flow_alone(path):
    assert path.name == "on_ray.py" or not touches(imports(path), "ray")


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
    light = [*LIGHT, *(module_of(path) for room in LIGHT_ROOMS for path in files(f"pipeline/{room}"))]
    code = f"import sys; sys.modules['torch'] = None; import {', '.join(light)}; print('fine')"
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


@pytest.mark.parametrize("path", files("tests"), ids=str)
def test_no_test_file_is_imported(path):
    assert not [name for name in imports(path) if re.search(r"(^|\.)test_", name or "") and name.startswith("tests.")]


def test_the_folders_of_the_tests_are_the_rooms():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {*FLOORS}


def test_what_contributing_names_exists():
    """Paths from the root or from pipeline/, where a word in capitals stands for any name, and targets of make."""
    words = re.findall(r"`([^`\n]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    paths = {word for word in words if re.fullmatch(r"[\w./]+", word) and ("/" in word or re.search(r"\.(py|md|json|toml)$", word))}
    globs = {path: re.sub(r"\b[A-Z]+\b(?=/|\.py)", "*", path) for path in paths - {"run.json"}}
    lost = sorted(path for path, glob in globs.items() if not any(any(start.glob(glob)) for start in (ROOT, ROOT / "pipeline")))
    assert len(globs) > 50 and not lost, f"CONTRIBUTING.md names what is not there: {lost}"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word.split()[1] for word in words if word.startswith("make ")} <= {*targets}


@pytest.mark.parametrize("folder", ["methods", "metrics"])
def test_a_method_or_metric_lies_in_the_folder_of_its_family(folder):
    entries = getattr(import_module(f"pipeline.{folder}"), folder.upper())
    paths = [f"pipeline/{folder}/{entry.family}/{name}.py" for name, entry in entries.items()]
    assert not [path for path in paths if not (ROOT / path).exists()], "the folder is what `family=` says"
