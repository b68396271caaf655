"""A headless Chromium for the tests of the report, and what each of its pages must not do."""

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
