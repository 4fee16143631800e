"""Rows in a file: where it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunesmith.data import stored
from tunesmith.errors import RunError


def test_a_folder_that_was_named_and_is_not_there_is_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    rows = stored.listed(str)
    for _ in range(stored.CHUNK - 1):
        rows.append("a")
    with pytest.raises(RunError, match=f"{re.escape(str(tmp_path / 'nowhere'))}: .* name another folder in TMPDIR"):
        rows.append("a")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert stored.place() == str(tmp_path)
