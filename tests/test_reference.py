"""docs/reference says what the registries say, of everything that they hold."""

import re
from pathlib import Path

import pytest

from docs.reference import build
from docs.reference.columns import COLUMNS, ROWS
from jobs.__main__ import FILES
from pipeline.datasets.layouts import LAYOUTS
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.tables.schema import BESIDE_RUNS, TABLES
from pipeline.targets import TARGETS
from tests.entries import fact

PAGES = {page.stem: page.read_text() for page in sorted(build.FOLDER.glob("*.md"))}


@pytest.fixture(scope="module")
def parts():
    return build.parts()


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_are_those_that_the_registries_make(page, parts):
    assert build.fill(PAGES[page], parts) == PAGES[page], f"docs/reference/{page}.md is not what the registries say: run `make reference`"


def test_every_part_stands_on_one_page(parts):
    assert sorted(name for text in PAGES.values() for name in build.part_names(text)) == sorted(parts), (
        "name each part in docs/reference/*.md once"
    )


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("methods", METHODS),
        ("metrics", METRICS),
        ("targets", TARGETS),
        ("tables", (*TABLES, *BESIDE_RUNS)),
        ("layouts", LAYOUTS),
    ],
)
def test_every_entry_has_a_heading_of_its_own(page, names):
    assert sorted(re.findall(r"^### `(\w+)`$", PAGES[page], re.MULTILINE)) == sorted(names), "run `make reference`"


def test_every_job_has_a_heading_of_its_own():
    assert sorted(re.findall(r"^### atlas (\w+)$", PAGES["jobs"], re.MULTILINE)) == sorted(FILES)


@pytest.mark.parametrize("name", METRICS)
def test_a_metrics_entry_names_every_column_and_setting(name):
    entry = PAGES["metrics"].partition(f"### `{name}`\n")[2].partition("\n##")[0]
    assert all(f"`{word}`" in entry for word in (*METRICS[name].columns, *METRICS[name].parameters)), "run `make reference`"


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_entry_names_every_setting_with_its_default(name):
    entry = PAGES["methods"].partition(f"### `{name}`\n")[2].partition("\n##")[0]
    for key, setting in METHODS[name].parameters.items():
        assert re.search(rf"^\| `{key}` \| .+ \| `.+` \|$", entry, re.MULTILINE) and setting.default is not None


def test_every_column_of_every_table_is_described_and_nothing_else_is():
    tables = {name: set(schema.names) for name, schema in build.SCHEMAS.items()}
    columns = {name.partition(".")[2] or name for name in COLUMNS}
    assert set(tables) == set(ROWS) == {*TABLES, *BESIDE_RUNS} and columns == set.union(*tables.values())
    assert all(column in tables[table] for table, _, column in (name.partition(".") for name in COLUMNS) if column)


@pytest.mark.parametrize("entry", [*METHODS.values(), *METRICS.values()], ids=lambda entry: entry.name)
def test_methods_and_metrics_name_their_source(entry):
    folder = "methods" if entry.name in METHODS else "metrics"
    ours = fact(folder, entry.name, "NO_SOURCE", None)
    assert ours or re.search(r"\([^)]+\)", build.file_doc(entry)[0]), (
        f"the first paragraph of {entry.name}.py names the paper, in brackets; tests/{folder}/{entry.name}.py says NO_SOURCE = '...' of what has none"
    )


def test_a_part_that_does_not_exist_is_an_error():
    with pytest.raises(KeyError):
        build.fill("<!-- part methods none -->\n<!-- end -->\n", {})


def test_filling_a_page_keeps_the_prose_and_is_the_same_twice():
    page = "# A\n\n<!-- part a -->\nold\n<!-- end -->\n\nprose\n"
    once = build.fill(page, {"a": "new"})
    assert once == "# A\n\n<!-- part a -->\n\nnew\n\n<!-- end -->\n\nprose\n" == build.fill(once, {"a": "new"})


@pytest.mark.parametrize("page", [Path("README.md"), Path("CONTRIBUTING.md"), Path("CHANGELOG.md"), *Path("docs").rglob("*.md")], ids=str)
def test_every_link_leads_somewhere(page):
    root = build.FOLDER.parents[1]
    for link in re.findall(r"\]\(([^)\s]+)\)", (root / page).read_text()):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = root / page.parent / path if path else root / page
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target.read_text()), link


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
