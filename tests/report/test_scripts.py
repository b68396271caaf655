"""The page's own scripts: short, without a way from a text to markup or code, and without a name that two of them claim."""

import re
from pathlib import Path

import pytest

from pipeline.report import overview

STATIC = Path(overview.__file__).parent / "static"
OWN = [path for path in sorted(STATIC.glob("*.js")) if not path.name.startswith("uPlot")]
MARKUP_OR_CODE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\b|new Function|setAttribute\(\"on|"
    r"\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|\bimport\(|https?://(?!www\.w3\.org/2000/svg)"
)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_a_script_makes_no_markup_of_texts_and_asks_no_network(path):
    lines = path.read_text().splitlines()
    assert not [line for line in lines if MARKUP_OR_CODE.search(line)]
    assert '"use strict";' in lines[:3] and lines[0].startswith("// "), "says what it is for"
    assert len(lines) <= 300 and max(map(len, lines)) <= 160


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_a_function_of_a_script_is_short(path):
    """From a line that begins one at the margin to the line that ends it."""
    start = None
    for number, line in enumerate(path.read_text().splitlines()):
        if re.match(r"(atlas\.\w+ = |function |const \w+ = ).*\{$", line) and "palettes" not in line:
            start = number
        elif line.startswith("}") and start is not None:
            assert number - start < 60, f"{path.name}:{start + 1}"
            start = None


def test_scripts_share_the_page_and_no_name():
    names = [name for path in OWN for name in re.findall(r"^(?:const|let|function) (\w+)", path.read_text(), re.MULTILINE)]
    fields = [name for path in OWN for name in re.findall(r"^atlas\.(\w+) =", path.read_text(), re.MULTILINE)]
    assert len(names) == len(set(names)) and len(fields) == len(set(fields))


def test_every_script_of_the_package_is_loaded_and_every_loaded_one_is_there():
    loaded = {name.removeprefix("static/") for name in overview.SCRIPTS if name.startswith("static/")}
    assert loaded == {path.name for path in STATIC.glob("*.js")}


def test_what_others_wrote_has_its_licence_beside_it():
    assert "MIT" in (STATIC / "uPlot.LICENSE.txt").read_text() and "v1.6.32" in (STATIC / "uPlot.iife.min.js").read_text()[:80]
