"""Draw docs/report.jpg, the picture of the README: an image of the demo's report, as Chromium shows it.

python -m docs.picture
"""

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline import tables
from tests.report.browser import path_of_chromium

ROOT = Path(__file__).parents[1]
SIZE = {"width": 1200, "height": 900}
ADDRESS = "page=image&image=00000.tar/val_1_000012&target=finer&method=layer_cam&opacity=0.7"


def draw() -> None:
    """Open the report that `make demo` has written, and keep a picture of one image."""
    out = ROOT / "out" / "demo" / "atlas"
    page_of_report = out / "reports" / tables.open(str(out), "demo").run_id / "index.html"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path_of_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(f"{page_of_report.as_uri()}#{ADDRESS}")
        page.evaluate("async () => { await atlas.started; await atlas.show(); }")
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    picture.convert("RGB").save(ROOT / "docs" / "report.jpg", quality=85)


if __name__ == "__main__":
    draw()
