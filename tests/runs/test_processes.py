"""`--processes`: the launcher ends with what the leader ended with, and what is asked of it wrongly is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs.mistakes import typed

from tunesmith import exits
from tunesmith.launch.elastic import launch


def test_the_leaders_exit_code_is_the_launchers() -> None:
    """2, of a command that nobody knows; torch alone would start it three times more and end with 1."""
    assert launch(["no-such-command"], 1) == 2
    assert exits.place() is None, "the launcher is none of the processes"


def test_only_the_leader_leaves_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exits.noted(3) == 3
    monkeypatch.setenv(exits.FOLDER, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    assert exits.begin()
    assert exits.noted(3) == 3
    assert exits.ended(tmp_path) is None
    monkeypatch.setenv("RANK", "0")
    assert exits.begin()
    assert exits.leader(tmp_path) is not None
    assert exits.noted(3) == 0
    assert exits.ended(tmp_path) == 3
    assert not exits.begin(), "started again, there is nothing to do"


def test_fewer_than_one_process_is_refused(tmp_path: Path) -> None:
    said = typed(["train", "--data", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out"), "--processes", "0"])
    assert said.code == 2
    assert "--processes is 0; wanted at least 1" in said.text
