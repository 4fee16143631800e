"""CSV as people have it: commas, semicolons, tabs or bars; quotes that span lines; the line "sep=;" of Excel."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO

from tunesmith.data import lines as text
from tunesmith.data.lines import About, Rejected, Row, check_text
from tunesmith.errors import DataError

DELIMITERS = ",;\t|"
NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
SNIFFED_LINES = 20


def sniff_delimiter(head: str) -> str:
    """The one of , ; tab | that cuts the rows into the most fields that most rows have; else a comma."""

    def fields(delimiter: str) -> int:
        found = [len(row) for row in csv.reader(io.StringIO(head), delimiter=delimiter) if row]
        agreeing = sum(n == found[0] for n in found) if found else 0
        return found[0] if found and agreeing * 2 > len(found) else 0

    return max(DELIMITERS, key=fields)


def said_delimiter(name: str) -> str:
    delimiter = NAMED.get(name, name)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise DataError(f"data.reading.delimiter is {name!r}; wanted one character, such as ';', or tab.")
    return delimiter


def csv_rows(
    stream: IO[bytes], path: Path, encoding: str, delimiter: str | None, about: About
) -> Iterator[tuple[int, Row] | Rejected]:
    """Rows with the line they begin at. `delimiter`: None to find it out. Those with too few or too many fields are
    rejected.
    """
    csv.field_size_limit(text.MAX_ROW_BYTES)  # the library's own limit of 128 KiB is a document's length
    pending: list[Rejected] = []

    def decoded() -> Iterator[str]:
        for item in text.lines(stream, path, encoding):
            if isinstance(item, Rejected):
                pending.append(item)
                yield "\n"  # keeps the line count
            else:
                yield item[1]

    remaining = decoded()
    head = list(islice(remaining, SNIFFED_LINES))
    if head and head[0].strip().lower().startswith("sep=") and len(head[0].strip()) == 5:
        delimiter = delimiter or head[0].strip()[-1]
        head[0] = "\n"
    delimiter = delimiter or sniff_delimiter("".join(head[: SNIFFED_LINES - 1]))
    about.found["delimiter"] = "tab" if delimiter == "\t" else delimiter
    reader = csv.reader(chain(head, remaining), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        found: tuple[int, Row] | Rejected | None = None
        try:
            cells = next(reader)
            if header is None:
                header = header_of(cells, path) if any(cells) else None
            elif any(cells):
                found = _row(header, cells, path, line)
        except StopIteration:
            return
        except csv.Error as error:
            found = Rejected(str(path), line, f"is not CSV: {error} (is a quote left open?)")
        yield from pending
        pending.clear()
        if found is not None:
            yield found


def header_of(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise DataError(
            f"{path}: the header names {', '.join(map(repr, sorted(twice)))} more than once. Give each column its own "
            "name."
        )
    return names


def _row(header: list[str], cells: list[str], path: Path, line: int) -> tuple[int, Row] | Rejected:
    if len(cells) != len(header):
        return Rejected(str(path), line, f"has {len(cells)} fields, the header has {len(header)}")
    try:
        for cell in cells:
            check_text(cell)
    except ValueError as error:
        return Rejected(str(path), line, str(error))
    return line, {name: cell for name, cell in zip(header, cells) if name}
