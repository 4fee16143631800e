"""Looks at a test set are counted over runs, by what the cases are."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tunesmith import openings
from tunesmith.errors import DataError, InputError

IDS = [f"{n:064x}"[::-1] for n in range(40)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))


def test_a_look_counts_for_later_runs_only(tmp_path: Path) -> None:
    assert openings.open_cases(IDS, tmp_path / "one") == []
    assert openings.open_cases(IDS, tmp_path / "one") == []  # the same run again
    [first] = {o.run for o in openings.open_cases(IDS, tmp_path / "two")}
    assert first == "one"
    assert openings.open_cases(["other"], tmp_path / "three") == []


def test_looks_of_the_runs_that_are_compared_are_none(tmp_path: Path) -> None:
    for name in ("one", "two"):
        openings.open_cases(IDS, tmp_path / name)
    assert [o.run for o in openings.open_cases(IDS, tmp_path / "three", but=[tmp_path / "one"])] == ["two"]


def test_fewer_cases_in_another_order_do_not_hide_a_look(tmp_path: Path) -> None:
    openings.open_cases(IDS, tmp_path / "one")
    [seen] = openings.open_cases(IDS[10:25][::-1] + ["new"] * 3, tmp_path / "two")
    assert seen.num_shared == 15


def test_the_note_says_how_often_and_by_whom(tmp_path: Path) -> None:
    assert openings.note([], 40) == ""
    openings.open_cases(IDS, tmp_path / "one")
    openings.open_cases(IDS, tmp_path / "two")
    text = openings.note(openings.open_cases(IDS, tmp_path / "three"), len(IDS))
    assert text.startswith("all of the 40 test cases were opened 2 times before on this machine, last by")
    assert "last by two on" in text
    assert str(tmp_path) not in text  # a report is mailed: it says nothing of who sits where
    assert "up to 7 of the 40 test cases were opened once" in openings.note(
        [openings.Opening("x", "2026-01-01", 7)], 40
    )


def test_the_record_holds_no_text_and_is_the_users_own(tmp_path: Path) -> None:
    openings.open_cases(IDS, tmp_path / "one")
    path = openings.record_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(len(case) == openings.ID_LETTERS for row in openings.rows() for case in row["cases"])
    path.write_text(path.read_text() + "{half a li")
    with pytest.raises(DataError, match=r"openings\.jsonl:2 is not a line"):
        openings.open_cases(IDS, tmp_path / "two")


def test_a_cache_that_cannot_be_written_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openings.check_writable()
    taken = tmp_path / "a_file"
    taken.write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(taken))
    with pytest.raises(InputError, match=r"the cache .*a_file cannot be written .*export TUNESMITH_CACHE=FOLDER"):
        openings.check_writable()
