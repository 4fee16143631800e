"""Columns by which results are shown apart survive reading, and nothing is learned of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.data.columns import Columns
from tunesmith.data.ingest import read
from tunesmith.errors import DataError

CSV = "text,label,language,region\nhello,a,en,\nbonjour,b,fr,0\nhallo,a, de ,1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(CSV, encoding="utf-8")
    return tmp_path / "rows.csv"


def test_values_stand_with_their_example_and_an_empty_cell_is_left_out(path: Path) -> None:
    found = read([path], Columns(slices=("language", "region")))
    assert [e.slices for e in found.examples] == [
        {"language": "en"}, {"language": "fr", "region": "0"}, {"language": "de", "region": "1"},
    ]  # fmt: skip
    assert found.ignored == ()


def test_ids_and_prompts_do_not_depend_on_them(path: Path) -> None:
    with_them, without = read([path], Columns(slices=("language",))), read([path])
    assert [(e.id, e.prompt) for e in with_them.examples] == [(e.id, e.prompt) for e in without.examples]
    assert without.ignored == ("language", "region")


def test_a_column_that_is_not_there_is_named_with_the_nearest(path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'langauge'.*language"):
        read([path], Columns(slices=("langauge",)))
