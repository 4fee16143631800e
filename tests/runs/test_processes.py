"""`--processes`: the launcher ends with what the leader ended with, and what is asked of it wrongly is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs.mistakes import typed

from tunesmith import exits
from tunesmith.cli.several import goes_on
from tunesmith.folder import PROCESS, this_process
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


def test_a_run_that_its_own_launch_began_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch counts no new start, since the process was lost on another machine. What another launch left is
    not gone on with unasked."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    begun = tmp_path / "seed_0"
    begun.mkdir()
    (begun / "recipe.yaml").write_text("")
    (begun / PROCESS).write_text(json.dumps(this_process()))
    assert goes_on(tmp_path)
    (begun / PROCESS).write_text(json.dumps({**this_process(), "launcher": "another"}))
    assert not goes_on(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert goes_on(tmp_path)
    assert not goes_on(tmp_path / "other")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    (begun / PROCESS).write_text(json.dumps(this_process()))
    assert not goes_on(tmp_path), "nobody launched this"
