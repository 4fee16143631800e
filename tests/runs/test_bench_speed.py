"""bench/speed.py compares what was measured on the same rows, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import speed
from tests.runs import tiny_runs


@pytest.fixture(autouse=True)
def tiny_model(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MODEL", str(tiny_runs.model_folder(tmp_path_factory.mktemp("model"))))


def chats(path: Path, num: int, *, words: int = 3) -> Path:
    said = [("user", " ".join(["fox"] * words)), ("assistant", "the dog")]
    rows = [{"messages": [{"role": role, "content": f"{text} {i}"} for role, text in said]} for i in range(num)]
    return tiny_runs.written(path, rows)


def test_updates_after_the_first_are_measured(tmp_path: Path) -> None:
    found = speed.ours(
        chats(tmp_path / "rows.jsonl", 48 + speed.NUM_HELD_OUT), "lora", 48, compiled=False, precision="float32"
    )
    assert found["updates"] == 3
    assert found["tokens_per_s"] > 0
    assert found["held_out_loss"] > 0


def test_rows_that_would_make_the_comparison_unfair_are_refused(tmp_path: Path) -> None:
    few = chats(tmp_path / "few.jsonl", 48 + speed.NUM_HELD_OUT - 1)
    with pytest.raises(SystemExit, match="63 rows; wanted 48 to learn from and 16 others"):
        speed.ours(few, "lora", 48, compiled=False, precision="float32")
    with pytest.raises(SystemExit, match="8 examples make one update"):
        speed.ours(few, "lora", 8, compiled=False, precision="float32")
    whole, long = chats(tmp_path / "whole.jsonl", 64), chats(tmp_path / "long.jsonl", 2, words=speed.MAX_TOKENS)
    whole.write_text(whole.read_text() + long.read_text())
    with pytest.raises(SystemExit, match=f"2 rows cannot be learned whole .* more than {speed.MAX_TOKENS}"):
        speed.ours(whole, "lora", 48, compiled=False, precision="float32")
