"""Rows in a file: where it stands."""

from __future__ import annotations

import json
import random
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


@pytest.mark.parametrize("kept", [0, 2**22])
def test_rows_in_any_order_are_those_that_were_put(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data from memory, large data row by row; what was saved is the same again."""
    monkeypatch.setattr(stored, "KEPT_BYTES", kept)
    wanted = [f"{i}:{'x' * (i * 37 % 101)}" for i in range(1000)]
    rows: stored.Stored[str] = stored.listed(str)
    for row in wanted:
        rows.append(row)
    order = random.Random(0).sample(range(1000), 1000)
    assert [rows[i] for i in order] == [wanted[i] for i in order]
    assert list(rows) == wanted
    some = sorted(order[:300])
    assert list(rows.as_stored(some)) == [json.dumps([wanted[i]]).encode() for i in some]
    rows.save(tmp_path / "rows.bin")
    again: stored.Stored[str] = stored.listed(str).opened(tmp_path / "rows.bin")
    assert [again[i] for i in order] == [wanted[i] for i in order]
    assert list(again) == list(rows) == wanted
