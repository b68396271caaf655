"""The tables that analyses add: as pages where a run has them, as a line that says which are not there."""

import base64

import pytest

from pipeline import tables
from pipeline.report import analyses, payload
from pipeline.report.job import Report
from pipeline.report.write import write
from tests.report.analysed import BINS, CLASSES, publish
from tests.report.browser import Watched
from tests.report.folder import Page, content


@pytest.fixture(scope="module")
def analysed(run, tmp_path_factory) -> tables.Run:
    return tables.open(publish(run, tmp_path_factory.mktemp("analysed")))


@pytest.fixture(scope="module")
def folder(analysed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysed_page")
    write(Report(out=analysed.out, to=str(folder)))
    return folder


def test_a_run_without_analyses_says_which_are_missing(report):
    text = " ".join(Page((report / "index.html").read_text()).text.split())
    assert f"Not computed: {', '.join(analyses.TABLES)}" in text and "Do the methods agree?" not in text


def test_a_run_with_all_of_them_lacks_none(folder):
    text = Page((folder / "index.html").read_text()).text
    assert "Not computed" not in text and "Do the methods agree?" in text


def test_agreement_of_methods_is_a_symmetric_matrix(analysed):
    with analysed.connect() as connection:
        matrix = analyses.agreement(connection, analysed.tables, "label")
        assert analyses.agreement(connection, analysed.tables, "finer") == {}
    assert [*matrix] == ["eigen_cam", "grad_cam", "layer_cam"] and matrix["eigen_cam"]["layer_cam"] == 0.25
    assert all(matrix[a][b] == matrix[b][a] for a in matrix for b in matrix) and {matrix[a][a] for a in matrix} == {1.0}


def test_means_of_analyses_stand_beside_the_metrics_of_classes(folder):
    cells = content(folder, "run")["cells"]
    of_finer = content(folder, f"classes-{cells.index(['grad_cam', 'finer'])}")
    assert of_finer["spearman to label"] == {str(c): [c / 10, 0.1, 0.9] for c in CLASSES}
    assert set(of_finer) >= {"outside the boxes", "area outside the boxes", "energy"}
    assert "spearman to label" not in content(folder, f"classes-{cells.index(['grad_cam', 'label'])}")


def test_a_column_of_an_analysis_can_be_chosen_for_the_classes(wide, folder):
    wide.open(folder, "page=classes&method=grad_cam&target=finer")
    wide.settle()
    wide.page.select_option("#class-form [name=metric]", "spearman to label")
    wide.settle()
    values = wide.page.locator("#class-table tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [row.dataset.class, row.cells[4].dataset.value])"
    )
    assert sorted(values) == [[str(c), str(c / 10 or 0)] for c in CLASSES]
    wide.page.keyboard.press("g")
    wide.page.locator("#grid li").first.wait_for()
    assert wide.page.locator("#filters [name=metric]").input_value() == "" and not wide.messages


def test_mean_maps_are_the_stored_bytes(folder, analysed):
    cells = content(folder, "run")["cells"]
    for row in analysed.table("mean_maps").to_pylist():
        count, entry = content(folder, f"means-{cells.index([row['method'], row['target']])}")[str(row["class_id"])][row["subset"]]
        assert count == row["n"] and list(base64.b64decode(entry[-1])) == row["map"]


def test_mean_maps_end_where_the_room_does_with_the_first_classes(analysed):
    with analysed.connect() as connection:
        cells = payload.cells(connection)
        files, all_classes = analyses.mean_maps(connection, cells, [*CLASSES], 10**9)
        size = sum(len(payload.script("", file)) for file in files)
        few, shown = analyses.mean_maps(connection, cells, [4, 2, 0, 1, 3], size / 2)
    assert all_classes == 5 and 1 <= shown < 5
    assert sum(len(payload.script("", file)) for file in few) <= size / 2 + 50 * len(cells)
    assert {name for file in few for name in file} == set(map(str, [4, 2, 0, 1, 3][:shown]))


@pytest.mark.parametrize("target", ["label", "finer"])
def test_the_most_disputed_images_are_those_of_the_table(wide, folder, analysed, target):
    wide.open(folder, f"page=gallery&sort=disputed&target={target}")
    wide.settle()
    rows = analysed.sql(wide.page.locator("#sql").input_value()).column(0).to_pylist()
    shown = wide.page.evaluate("() => atlas.places.map((place) => atlas.images.image_id[place])")
    table = analysed.sql(f"SELECT image_id, disagreement FROM disagreement WHERE target = '{target}'").to_pylist()
    values = {row["image_id"]: row["disagreement"] for row in table}
    assert [values[name] for name in shown] == [values[name] for name in rows] and values[shown[-1]] is None


@pytest.mark.parametrize("width", [390, 1400])
def test_pages_of_analyses_draw_their_maps(chromium, folder, width):
    with chromium.new_context(viewport={"width": width, "height": 900}) as context:
        page = Watched(context.new_page())
        for address, canvases in (
            ("page=aggatt&target=finer", 2 * len(BINS)),
            ("page=classes&method=grad_cam&target=finer", 3 * len(CLASSES)),
        ):
            page.open(folder, address)
            page.settle()
            assert page.page.locator(".page:not([hidden]) canvas").count() == canvases
            assert page.page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
        assert not page.messages


@pytest.mark.parametrize("address", ["page=run", "page=aggatt", "page=classes&method=grad_cam"])
def test_axe_finds_nothing_serious_on_them(chromium, folder, address):
    with chromium.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=True) as context:
        page = Watched(context.new_page())
        page.open(folder, address)
        page.settle()
        page.page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert not page.serious()
