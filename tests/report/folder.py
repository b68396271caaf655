"""The folder of a report, read by the tests: its page, its data files, and the hostile names in them."""

import html.parser
import json
import re

KEY = "<img src=x onerror=alert(1)>"
CLASSES = ["<script>alert(2)</script>", "=cmd()", "it's", 'say "hi"', "plain"]


def content(folder, name):
    """What a data file hands to the page."""
    text = (folder / "data" / f"{name}.js").read_text()
    match = re.fullmatch(r"atlas\.receive\((\"[^\"]*\"),(.*)\);\n", text, re.DOTALL)
    assert json.loads(match[1]) == name
    return json.loads(match[2])


def shown(folder) -> list[str]:
    return content(folder, "images")["image_id"]


class Page(html.parser.HTMLParser):
    """The tags, the links and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data
