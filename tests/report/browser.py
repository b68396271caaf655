"""A headless Chromium for the tests of the report, and what each of its pages must not do."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def path_of_chromium() -> str:
    """Where Chromium is; a test that needs it skips where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if not path:
        pytest.skip(f"there is no browser: none of {', '.join(NAMES)} is on the PATH")
    return path


class Watched:
    """A page whose messages, errors and requests are kept."""

    def __init__(self, page):
        self.page, self.messages, self.urls = page, [], []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("requestfailed", lambda request: self.messages.append(f"failed: {request.url[:200]}"))
        page.on("request", lambda request: self.urls.append(request.url))

    def open(self, folder: Path, address: str = "") -> None:
        """Open a report from disk, and wait until it shows what `address` names."""
        self.page.goto("about:blank")
        self.page.goto(f"{(folder / 'index.html').as_uri()}#{address}")
        self.page.evaluate("() => atlas.started")

    def settle(self) -> None:
        """Wait until the page shows its state."""
        self.page.evaluate("() => atlas.show()")

    def serious(self) -> list:
        """The rules of axe-core that the page breaks, serious and critical ones; its context must let scripts in (`bypass_csp`).

        axe-core is no part of the project: ATLAS_AXE names its file axe.min.js, from npm. Without it the test skips.
        """
        path = os.environ.get("ATLAS_AXE")
        if not path or not Path(path).is_file():
            pytest.skip("axe-core is not here; point ATLAS_AXE at the axe.min.js of npm's axe-core")
        self.page.add_script_tag(path=path)
        rules = [rule for rule in self.page.evaluate("() => axe.run()")["violations"] if rule["impact"] in ("serious", "critical")]
        return [(rule["id"], [node["html"][:200] for node in rule["nodes"]][:3]) for rule in rules]
