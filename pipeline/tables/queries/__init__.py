"""Named queries, each a file NAME.sql: a comment that says what it answers, a line for each setting, and the query."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.refusal import Refusal, choose

_SETTING = re.compile(r"-- \$(?P<name>\w+) = (?P<default>.*?): (?P<meaning>.*)")


@dataclass(frozen=True)
class Setting:
    """A setting of a query, `$name` in its SQL: the value it has unless another is given, and what it means."""

    default: str
    meaning: str


@dataclass(frozen=True)
class Query:
    """A named query: what it answers, its SQL, and its settings by name."""

    name: str
    question: str
    sql: str
    settings: dict[str, Setting]

    def parameters(self, assignments: Iterable[str]) -> dict[str, int | str]:
        """The value of each setting, after assignments such as `limit=5`; a value takes the type of its default.

        Raises:
            Refusal: where an assignment has no `=`, names no setting, or gives a word in place of a number.
        """
        texts = {name: setting.default for name, setting in self.settings.items()}
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if not equals:
                raise Refusal(f"--set {assignment}: write NAME=VALUE")
            texts[choose(name, self.settings, f"setting of the query {self.name}")] = value
        return {name: self._typed(name, text) for name, text in texts.items()}

    def _typed(self, name: str, text: str) -> int | str:
        if not self.settings[name].default.isdigit():
            return text
        if not text.isdigit():
            raise Refusal(f"--set {name}={text}: {name} is a whole number")
        return int(text)


def _read(path: Path) -> Query:
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("-- ")]
    matches = [(line, _SETTING.fullmatch(line)) for line in comments]
    return Query(
        path.stem,
        " ".join(line.removeprefix("-- ") for line, match in matches if not match),
        "\n".join(line for line in lines if line not in comments),
        {match["name"]: Setting(match["default"], match["meaning"]) for _, match in matches if match},
    )


QUERIES = {path.stem: _read(path) for path in sorted(Path(__file__).parent.glob("*.sql"))}
