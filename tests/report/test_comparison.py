"""A run beside an earlier one: the numbers of `atlas compare`, and the maps that moved most, side by side."""

import base64
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import tables
from pipeline.refusal import Refusal
from pipeline.report.job import Report
from pipeline.report.write import write
from tests.report.browser import Watched
from tests.report.folder import Page, content

BEFORE = "20200101T000000000000Z-00000000"
VERDICT = "moved: <script>alert(4)</script>"


def drift(kind: str, quantity: str, value: float | None, low: float | None, high: float | None, method: str | None = None, **more) -> dict:
    """A row of the table `drift`."""
    plain = {"target": "label" if method else None, "scope": "all", "n": 40, "before": 0.25, "now": 0.5, "floor": None, "detail": None}
    return {"kind": kind, "method": method, "quantity": quantity, "value": value, "ci_low": low, "ci_high": high, **plain, **more}


@pytest.fixture(scope="module")
def both(run, tmp_path_factory) -> tables.Run:
    """A run and one before it, which had other maps, with their comparison."""
    folder = tmp_path_factory.mktemp("both")
    shutil.copytree(run.out, folder, dirs_exist_ok=True)
    place = folder / "runs" / run.run_id
    shutil.copytree(place, folder / "runs" / BEFORE)
    (place / "run.json").write_text(json.dumps({**run.manifest, "previous": BEFORE}))
    (folder / "runs" / BEFORE / "run.json").write_text(json.dumps({**run.manifest, "run_id": BEFORE}))
    for path in (folder / "runs" / BEFORE / "maps").rglob("*.parquet"):
        rows = pq.ParquetFile(path).read()
        turned = [[255 - level for level in levels] for levels in rows.column("map").to_pylist()]
        pq.write_table(
            rows.set_column(rows.schema.get_field_index("map"), rows.schema.field("map"), pa.array(turned, rows.schema.field("map").type)),
            path,
        )
    return tables.open(str(folder))


def compared(both: tables.Run) -> None:
    place = Path(both.out) / "drift" / both.run_id / BEFORE
    place.mkdir(parents=True)
    rows = [
        drift("metrics", "energy", -0.125, -0.25, -0.0625, "grad_cam"),
        drift("metrics", "energy", 0.125, -0.25, 0.5, "layer_cam"),
        drift("metrics", "energy", 7.5, 7.0, 8.0, "layer_cam", scope="3"),
        drift("predictions", "flips", 0.75, 0.5, 0.875),
        drift("maps", "spearman", 0.0625, 0.03125, 0.09375, "grad_cam"),
        drift("versions", "layer", None, None, None, detail="layer3 -> <b>layer4</b>"),
    ]
    pq.write_table(pa.Table.from_pylist(rows), place / "drift.parquet")
    ids = sorted(both.table("images").column("image_id").to_pylist())
    moved = [
        {"image_id": name, "method": "grad_cam", "target": "label", "spearman": i / 40, "ssim": None}
        for i, name in enumerate(reversed(ids))
    ]
    pq.write_table(pa.Table.from_pylist([*moved, {**moved[0], "method": "gone"}]), place / "moved.parquet")
    (place / "verdict.json").write_text(json.dumps({"verdict": VERDICT}))


def test_runs_that_were_not_compared_and_runs_that_are_not_there_are_refused(both, run, tmp_path):
    with pytest.raises(Refusal, match=f"atlas compare --out .* {both.run_id} {BEFORE} does it"):
        write(Report(out=both.out, to=str(tmp_path), against="previous"))
    with pytest.raises(Refusal, match="'nobody' is neither a run"):
        write(Report(out=both.out, to=str(tmp_path), against="nobody"))
    with pytest.raises(Refusal, match="is the first run of its name"):
        write(Report(out=run.out, to=str(tmp_path), against="previous"))


@pytest.fixture(scope="module")
def folder(both, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    compared(both)
    write(Report(out=both.out, to=str(folder), against="previous"))
    return folder


def test_the_page_has_the_numbers_over_all_images_and_says_which_are_certain(folder):
    page = Page((folder / "index.html").read_text())
    cells = {
        attributes["data-value"]: attributes.get("class") for tag, attributes in page.tags if tag == "td" and "data-value" in attributes
    }
    assert cells["-0.125"] == "certain" and cells["0.125"] is None and cells["0.75"] is None and "0.0625" in cells and "7.5" not in cells
    assert VERDICT in page.text and "layer: layer3 -> <b>layer4</b>" in page.text


def test_maps_stand_beside_those_of_the_run_before(folder, both):
    rows = content(folder, "moved")
    assert len(rows) == 24 and [row["spearman"] for row in rows] == [i / 40 for i in range(24)]
    stored = {
        row["image_id"]: row["map"] for row in both.table("maps").to_pylist() if (row["method"], row["target"]) == ("grad_cam", "label")
    }
    for row in rows:
        assert list(base64.b64decode(row["now"][-1])) == stored[row["image_id"]]
        assert list(base64.b64decode(row["before"][-1])) == [255 - level for level in stored[row["image_id"]]]
        assert row["picture"].startswith("data:image/jpeg")


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_draws_both_maps_of_each_and_fits(chromium, folder, width):
    with chromium.new_context(viewport={"width": width, "height": 900}) as context:
        page = Watched(context.new_page())
        page.open(folder, "page=compare")
        page.settle()
        assert page.page.locator("#moved canvas").count() == 48 and not page.messages
        assert page.page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.page.locator("main script").count() == 0


def test_axe_finds_nothing_serious_on_it(chromium, folder):
    with chromium.new_context(viewport={"width": 1400, "height": 900}, bypass_csp=True) as context:
        page = Watched(context.new_page())
        page.open(folder, "page=compare")
        page.settle()
        assert not page.serious()
