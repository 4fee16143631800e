"""Excel workbooks (.xlsx) through openpyxl, which the extra `xlsx` brings. The only file that imports it."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from tunesmith.data.delimited import header_of
from tunesmith.data.lines import About, Row
from tunesmith.errors import DataError

CELL_CHARS = 32_767  # that a cell may hold
WIDE, NARROW = 60, 12  # width of a column, in characters
BOMB_RATIO, BOMB_BYTES = 500, 2**30  # unpacked to packed size, looked at above this many bytes


def sheet_rows(path: Path, sheet: str | None, about: About) -> Iterator[tuple[int, Row]]:
    """Rows of one sheet with their numbers there; the first row that is not empty names the columns.

    A formula stands for the value that was stored with it. Dates are ISO 8601, whole numbers have no point.
    """
    values, formulas = (_workbook(path, data_only=only) for only in (True, False))
    try:
        name = sheet or values.sheetnames[0]
        if name not in values.sheetnames:
            raise DataError(f"{path}: has no sheet {name!r}; it has: {', '.join(values.sheetnames)}.")
        about.found["sheet"] = name
        if sheet is None and len(values.sheetnames) > 1:
            others = ", ".join(values.sheetnames[1:])
            about.notices.append(
                f"{path}: only the first sheet, {name!r}, was read, not {others}; --set data.reading.sheet=NAME"
            )
        yield from _rows(values[name], formulas[name], path, about)
    finally:
        values.close()
        formulas.close()


def opened_by(path: Path) -> Any:
    """openpyxl, with the parts of it that are used. Raises DataError where it is not installed."""
    try:
        for inner in ("styles", "utils", "worksheet.datavalidation"):
            importlib.import_module(f"openpyxl.{inner}")
        return importlib.import_module("openpyxl")
    except ImportError:
        raise DataError(
            f"{path}: Excel workbooks need openpyxl, which is not installed: pip install 'tunesmith[xlsx]'. Or "
            "save the sheet as CSV."
        ) from None


def _workbook(path: Path, *, data_only: bool) -> Any:
    openpyxl = opened_by(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * path.stat().st_size:
            raise DataError(f"{path}: unpacks to {unpacked} bytes: a compression bomb? Save the sheet as CSV.")
        return openpyxl.load_workbook(path, read_only=True, data_only=data_only)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(
            f"{path}: is no Excel workbook that can be read ({error}). Save an .xls file as .xlsx, or as CSV."
        ) from error


def _rows(values: Any, formulas: Any, path: Path, about: About) -> Iterator[tuple[int, Row]]:
    for part in (values, formulas):
        part.reset_dimensions()  # some programs write a wrong size of the sheet, and rows would be missing
    header: list[str] | None = None
    unknown: list[str] = []  # cells that hold no value though they are not empty
    for number, (cells, written) in enumerate(zip(values.iter_rows(), formulas.iter_rows()), 1):
        found = []
        for cell, as_written in zip(cells, written):
            value = None if cell.data_type == "e" else plain(cell.value)
            if value is None and (as_written.data_type == "f" or cell.data_type == "e"):
                unknown.append(as_written.coordinate)
            found.append(value)
        if all(value in (None, "") for value in found):
            continue
        if header is None:
            header = header_of(["" if value is None else str(value) for value in found], path)
            continue
        yield number, {name: value for name, value in zip(header, [*found, *[None] * len(header)]) if name}
    if unknown:
        about.notices.append(
            f"{path}: {len(unknown)} cells ({unknown[0]} is the first) hold an error, or a formula whose value was not "
            "stored, and were read as empty; open the workbook in a spreadsheet program and save it"
        )


def plain(value: Any) -> Any:
    """A cell's value as text, number, truth value or None."""
    if isinstance(value, datetime):
        is_day = value.time() == time()
        return value.date().isoformat() if is_day else value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def write_sheet(
    path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, str]], choices: Mapping[str, Sequence[str]]
) -> None:
    """Texts as a workbook to be filled in, no text a formula. `choices`: column -> what may be chosen there."""
    openpyxl = opened_by(path)
    book = openpyxl.Workbook()
    page = book.active
    page.append(list(columns))
    wrap = openpyxl.styles.Alignment(wrap_text=True, vertical="top")
    num = 1
    for num, line in enumerate(lines, 2):
        for at, name in enumerate(columns, 1):
            cell = page.cell(num, at)
            cell.value = cell_text(line[name]) or None
            cell.alignment = wrap
            if cell.data_type == "f":
                cell.data_type = "s"
    for at, name in enumerate(columns, 1):
        letter = openpyxl.utils.get_column_letter(at)
        page.column_dimensions[letter].width = WIDE if any(len(v.value or "") > 30 for v in page[letter]) else NARROW
        page.cell(1, at).font = openpyxl.styles.Font(bold=True)
        if name in choices:
            rule = openpyxl.worksheet.datavalidation.DataValidation("list", formula1=f'"{",".join(choices[name])}"')
            page.add_data_validation(rule)
            rule.add(f"{letter}2:{letter}{max(num, 2)}")
    page.freeze_panes = "A2"
    book.save(path)


def cell_text(text: str) -> str:
    """Without the control characters that no cell may hold, and no longer than a cell may be."""
    plain_text = "".join(c for c in text if c >= " " or c in "\n\t\r")
    return plain_text if len(plain_text) <= CELL_CHARS else plain_text[: CELL_CHARS - 2] + " …"
