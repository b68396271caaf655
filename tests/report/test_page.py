"""The report in a real browser: it asks for nothing outside its folder, complains of nothing, fits every screen, and answers the keys."""

import re
from urllib.parse import urlencode

import pytest

from pipeline.report.job import Report
from pipeline.report.write import write
from tests.report.browser import Watched
from tests.report.folder import CLASSES, KEY

PAGES = [
    "page=run",
    "page=classes&method=grad_cam",
    "page=gallery",
    "page=gallery&metric=energy&sort=worst&method=grad_cam",
    "page=image&image=1.tar/image103",
]


@pytest.mark.parametrize("address", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_page_opens_from_disk_without_a_complaint_and_fits(chromium, report, address, scheme, width):
    with chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = Watched(context.new_page())
        page.open(report, address)
        page.settle()
        assert not page.messages
        inside = report.as_uri()
        assert not [url for url in page.urls if not url.startswith((f"{inside}/", "data:", "blob:", "about:blank"))]
        assert page.page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.page.locator(".page:not([hidden])").count() == 1


def test_a_page_opens_from_a_bucket(wide, out, s3, s3_server):
    import boto3

    write(Report(out=str(out), to=f"{s3}/one", images=20))
    client, bucket = boto3.client("s3"), s3.removeprefix("s3://")
    for entry in client.list_objects_v2(Bucket=bucket)["Contents"]:
        client.put_object_acl(Bucket=bucket, Key=entry["Key"], ACL="public-read")
    wide.page.goto(f"{s3_server}/{bucket}/one/index.html#page=gallery")
    wide.page.evaluate("() => atlas.started")
    wide.settle()
    assert wide.page.locator("#grid canvas").count() == 20 and not wide.messages
    assert all(url.startswith((s3_server, "data:")) for url in wide.urls)


def test_nothing_from_the_data_becomes_markup(wide, report):
    wide.page.on("dialog", lambda dialog: wide.messages.append(dialog.message))
    for address in (*PAGES, f"page=image&{urlencode({'image': f'0.tar/{KEY}'})}"):
        wide.open(report, address)
        wide.settle()
    assert not wide.messages and wide.page.locator("main script, img[src='x']").count() == 0
    assert KEY in wide.page.locator("#image-name").inner_text()
    assert CLASSES[0] in wide.page.locator("#image-facts").inner_text()


def chosen(page: Watched) -> list[str]:
    return page.page.evaluate("() => atlas.places.map((place) => atlas.images.image_id[place])")


FILTERS = [
    "label=3",
    "outcome=right",
    "outcome=wrong",
    "predicted=1&sort=name",
    "metric=energy&sort=best&method=grad_cam",
    "metric=energy&sort=worst&method=grad_cam&target=finer",
    "metric=complexity&sort=best&method=layer_cam",
    "metric=deletion&sort=worst&method=random",
    "metric=energy&method=grad_cam&low=0.1&high=0.2&sort=worst",
    "metric=energy&method=layer_cam&low=0.1&outcome=wrong&label=2&sort=name",
    "sort=disputed",
    "sort=disputed&target=finer",
    "sort=changed&method=grad_cam&target=finer",
    "sort=confident",
    "sort=unsure",
]


@pytest.mark.parametrize("state", FILTERS)
def test_filters_and_sorts_give_what_their_sql_gives(wide, report, run, state):
    wide.open(report, f"page=gallery&{state}")
    wide.settle()
    question = wide.page.locator("#sql").input_value()
    rows = run.sql(question).column("image_id").to_pylist()
    places = chosen(wide)
    assert sorted(places) == sorted(rows)
    if "ORDER BY" in question:  # equal ones may come in any order
        key = re.search(r"ORDER BY (\"?\w+\"?)", question)[1]
        body = question[: question.index("ORDER BY")].replace("SELECT image_id", f"SELECT image_id, {key} AS sorted_by", 1)
        value = dict(zip(*(run.sql(body).column(name).to_pylist() for name in ("image_id", "sorted_by")), strict=True))
        known = {name: None if number != number else number for name, number in value.items()}  # NaN is no number, and last as null is
        assert [known[name] for name in places] == [known[name] for name in rows]
    assert wide.page.locator("#grid li").count() == min(len(rows), 48)


def test_images_without_a_value_are_found_by_their_reason(wide, report, run):
    rows = run.sql(
        "SELECT method, target, entry.key AS metric, entry.value AS reason, count(*) AS n "
        "FROM (SELECT method, target, unnest(map_entries(reasons)) AS entry FROM metrics) GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    assert rows, "some maps of the run are constant"
    for row in [rows[0], rows[-1]]:
        method, target = row["method"], "label" if row["target"] == "none" else row["target"]
        wide.open(report, f"page=gallery&{urlencode({**row, 'method': method, 'target': target})}")
        wide.settle()
        question = wide.page.locator("#sql").input_value()
        assert sorted(chosen(wide)) == sorted(run.sql(question).column(0).to_pylist()) and len(chosen(wide)) == row["n"]
        assert wide.page.locator("[name=reason]").input_value() == row["reason"]


def test_the_address_holds_the_state(wide, report, chromium):
    wide.open(report, "page=gallery")
    wide.page.select_option("#filters [name=method]", "layer_cam")
    wide.page.select_option("#filters [name=label]", "2")
    wide.settle()
    address = wide.page.evaluate("() => location.hash")
    with chromium.new_context() as context:
        other = Watched(context.new_page())
        other.open(report, address[1:])
        other.settle()
        assert chosen(other) == chosen(wide) and other.page.locator("#filters [name=method]").input_value() == "layer_cam"


FOREIGN = "&".join(
    f"{key}=constructor" for key in ("method", "target", "metric", "sort", "scale", "palette", "drawn", "label", "split", "low", "opacity")
)


@pytest.mark.parametrize("page", ["run", "gallery", "classes", "image&image=1.tar/image103", "image&image=nowhere", "constructor"])
def test_an_address_of_another_report_opens_what_there_is(wide, report, page):
    wide.open(report, f"page={page}&{FOREIGN}&toString=1")
    wide.settle()
    assert not wide.messages and wide.page.locator(".page:not([hidden])").count() == 1


def test_keys_lead_through_the_images(wide, report):
    wide.open(report, "page=gallery")
    wide.settle()
    names = chosen(wide)
    wide.page.locator("#grid a").first.focus()
    press = wide.page.keyboard.press
    press("Enter")
    title = wide.page.locator("#image-name")
    title.get_by_text(names[0]).wait_for()
    press("ArrowRight")
    title.get_by_text(names[1]).wait_for()
    press("ArrowLeft")
    title.get_by_text(names[0]).wait_for()
    method = wide.page.evaluate("() => atlas.methods()[2]")
    press("3")
    wide.page.locator(f"#maps th.current >> text={method}").wait_for()
    target = wide.page.evaluate("() => atlas.state.target")
    press("t")
    assert wide.page.evaluate("() => atlas.state.target") != target
    press("o")
    assert wide.page.evaluate("() => document.documentElement.classList.contains('plain')")
    press("Escape")
    wide.page.locator("#grid li").first.wait_for()
    press("r")
    wide.page.locator("#run h2").first.wait_for()
    assert not wide.messages


CONTROLS = """[...document.querySelectorAll('a[href], button, select, input, textarea, summary')].filter((e) => e.checkVisibility())"""


def test_every_control_is_reached_by_the_tab_key(wide, report):
    for address in ("page=run", "page=gallery", "page=classes", "page=image&image=1.tar/image103"):
        wide.open(report, address)
        wide.settle()
        for _ in range(wide.page.evaluate(f"() => {CONTROLS}.length") + 40):
            wide.page.keyboard.press("Tab")
            wide.page.evaluate("() => { document.activeElement.dataset.reached = 'yes'; }")
        assert wide.page.evaluate(f"() => {CONTROLS}.filter((e) => !e.dataset.reached).map((e) => e.outerHTML)") == []


def test_the_selection_leaves_as_csv_keys_and_sql(wide, report, tmp_path):
    wide.open(report, "page=gallery&metric=energy&method=grad_cam&sort=best&label=1")
    wide.settle()
    contents = []
    for button in ("#export-csv", "#export-keys"):
        with wide.page.expect_download() as download:
            wide.page.click(button)
        download.value.save_as(tmp_path / "file")
        contents.append((tmp_path / "file").read_text())
    assert contents[1].splitlines() == chosen(wide)
    lines = contents[0].splitlines()
    assert lines[0].startswith('"image_id","label"') and len(lines) == len(chosen(wide)) + 1
    assert '"\'=cmd()"' in lines[1], "a spreadsheet takes it for no formula"


def test_a_table_is_sorted_by_its_heads(wide, report):
    wide.open(report, "page=run")
    table = wide.page.locator(".of-target:not([hidden]) table.metrics").first
    head = table.locator("thead th", has_text="energy").first
    column = head.evaluate("(cell) => cell.cellIndex")
    read = "(rows, column) => rows.map((row) => Number(row.cells[column].dataset.value))"
    head.locator("button").click()
    falling = table.locator("tbody tr").evaluate_all(read, column)
    head.locator("button").click()
    rising = table.locator("tbody tr").evaluate_all(read, column)
    assert falling == sorted(falling, reverse=True) and rising == falling[::-1]


def test_classes_have_the_metrics_of_the_summary(wide, report, run):
    wide.open(report, "page=classes&method=layer_cam&target=finer&metric=energy")
    wide.settle()
    rows = wide.page.locator("#class-table tbody tr").evaluate_all(
        "(rows) => rows.map((row) => [row.dataset.class, Number(row.cells[4].dataset.value)])"
    )
    question = "SELECT scope, mean FROM summary WHERE method = 'layer_cam' AND target = 'finer' AND metric = 'energy' AND scope != 'all'"
    means = {row["scope"]: row["mean"] for row in run.sql(question).to_pylist()}
    assert len(rows) == len(means) == 5
    for name, mean in rows:
        assert mean == pytest.approx(means[name], rel=1e-4)
    wide.page.locator("#class-table tbody a").first.click()
    wide.page.locator("#grid li").first.wait_for()
    label = wide.page.evaluate("() => atlas.state.label")
    assert label == rows[0][0] and len(chosen(wide)) == 8


def test_the_tables_can_be_read_without_javascript(chromium, report, run):
    with chromium.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto((report / "index.html").as_uri())
        targets = run.sql("SELECT DISTINCT target FROM summary WHERE target != 'none'").column(0).to_pylist()
        assert len(page.locator(".of-target:visible").all()) == len(targets)
        assert page.locator(".noscript").is_visible()


def test_the_line_of_the_scatter_joins_what_nothing_beats(wide, report):
    wide.open(report, "page=run")
    points = [{"x": 1, "y": 1}, {"x": 2, "y": 3}, {"x": 2, "y": 2}, {"x": 4, "y": 3}, {"x": 5, "y": 4}]
    line = wide.page.evaluate("(points) => atlas.pareto(points, {x: 'lower', y: 'higher'})", points)
    assert line == [points[0], points[1], points[4]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", PAGES)
def test_axe_finds_nothing_serious(chromium, report, address, scheme):
    with chromium.new_context(viewport={"width": 1400, "height": 900}, color_scheme=scheme, bypass_csp=True) as context:
        page = Watched(context.new_page())
        page.open(report, address)
        page.settle()
        assert not page.serious()
