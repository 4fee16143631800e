"""Excel workbooks: readable dates, numbers without points, formulas by their stored value, errors with a way out."""

from __future__ import annotations

import importlib
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tunesmith.data.ingest import read
from tunesmith.data.rows import About, Reading, rows
from tunesmith.errors import DataError


def workbook(path: Path, *lines: list[Any], title: str = "Tickets") -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = title
    for line in lines:
        sheet.append(line)
    book.save(path)
    return path


def test_cells_as_people_read_them(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx", [], ["text", "label", "when", "day", "clock", "n", "x", "yes", None],
        ["Grüße", 3.0, datetime(2024, 3, 1, 9, 5), date(2024, 3, 1), time(9, 5), 2, 2.5, True, "beside"], [None, ""],
        ["b", "c"],
    )  # fmt: skip
    about = About()
    found = list(rows(path, about=about))
    assert found[0] == (
        3,
        {
            "text": "Grüße", "label": 3, "when": "2024-03-01 09:05:00", "day": "2024-03-01", "clock": "09:05:00",
            "n": 2, "x": 2.5, "yes": True,
        },
    )  # fmt: skip
    assert found[1][0] == 5  # type: ignore[index]
    assert (about.found, about.notices) == ({"format": "xlsx", "sheet": "Tickets"}, [])
    read_again = read([path])
    assert [e.target.text for e in read_again.examples] == ["3", "c"]  # type: ignore[union-attr]


def test_the_first_sheet_unless_another_is_said(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], ["a", "b"])
    book = openpyxl.load_workbook(path)
    other = book.create_sheet("Other")
    other.append(["question", "answer"])
    other.append(["q", "a"])
    book.save(path)
    first = read([path])
    assert "only the first sheet, 'Tickets', was read, not Other" in first.notices[0]
    assert read([path], reading=Reading(sheet="Other")).columns.prompt == ("question",)
    with pytest.raises(DataError, match="no sheet 'Others'; it has: Tickets, Other"):
        read([path], reading=Reading(sheet="Others"))


def test_formulas_without_a_stored_value_and_errors_are_told(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], ["a", "x"], ["=A2&A2", "x"], ["c", "#N/A"])
    found = read([path])
    assert [(r.line, r.reason) for r in found.rejected] == [
        (3, "the column 'text' is empty"),
        (4, "the column 'label' is empty"),
    ]
    assert "2 cells (A3 is the first) hold an error, or a formula whose value was not stored" in found.notices[0]


def test_formulas_by_their_stored_value(tmp_path: Path) -> None:
    """openpyxl stores none, so the stored value is written into the file as a spreadsheet program does."""
    zipfile = importlib.import_module("zipfile")
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], ['="a"&"b"', "x"])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    before = parts[sheet].decode()
    assert "</f><v /></c>" in before or "</f><v></v></c>" in before
    stored = before.replace("</f><v /></c>", "</f><v>ab</v></c>").replace("</f><v></v></c>", "</f><v>ab</v></c>")
    parts[sheet] = stored.replace('<c r="A2">', '<c r="A2" t="str">').encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    found = read([path])
    assert (found.examples[0].prompt[0].content, found.notices) == ("ab", ())


def test_a_workbook_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    for content in (b"", b"text,label\na,b\n", b"\xd0\xcf\x11\xe0" + b"\0" * 600):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no Excel workbook that can be read"):
            read([path])
    workbook(path, ["text", "text"], ["a", "b"])
    with pytest.raises(DataError, match="'text' more than once"):
        read([path])
    workbook(path)
    with pytest.raises(DataError, match="there are no rows"):
        read([path])


def test_without_openpyxl_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], ["a", "b"])
    monkeypatch.setitem(importlib.import_module("sys").modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"pip install 'tunesmith\[xlsx\]'"):
        read([path])


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", ["text", "label"], *[["a" * 1000, "b"]] * 50)
    monkeypatch.setattr("tunesmith.data.sheet.BOMB_BYTES", 1000)
    monkeypatch.setattr("tunesmith.data.sheet.BOMB_RATIO", 1)
    with pytest.raises(DataError, match="compression bomb"):
        read([path])
