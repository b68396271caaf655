"""Rows of CSV text, as spreadsheets and statistics programs write it."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from pipeline.refusal import Refusal

SEPARATORS = (",", ";", "\t", "|")
HEAD = 4  # lines, of which one names the columns


def header(path: str, lines: Sequence[str], columns: Sequence[str]) -> tuple[str, list[str]]:
    """The separator and the names of the columns, in lower case, by the first lines of a file.

    The separator is the first by which there are all of `columns`, else the one by which there are most.
    """
    rows = {separator: next(fields(path, lines, separator), (1, []))[1] for separator in SEPARATORS}
    names = {separator: [name.lower() for name in row] for separator, row in rows.items()}
    fits = (separator for separator in SEPARATORS if {*columns} <= {*names[separator]})
    separator = next(fits, max(SEPARATORS, key=lambda separator: len(names[separator])))
    return separator, names[separator]


def fields(path: str, lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line and fields of every row that is not blank, but for the line `sep=;` that spreadsheets write.

    Raises:
        Refusal: the text is no CSV.
    """
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        for number, row in enumerate(reader):
            texts = [field.strip() for field in row]
            if any(texts) and not (number == 0 and re.fullmatch("sep=.?", "".join(texts).lower())):
                yield reader.line_num, texts
    except csv.Error as error:
        raise Refusal(f"{path}:{reader.line_num}: {error}") from error
