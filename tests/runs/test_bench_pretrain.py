"""bench/pretrain_t5.py: its feed can be put back to a place, and the model that it makes can be opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bench import pretrain_t5
from tests.runs import tiny_runs

from tunesmith.data.spans import Spans
from tunesmith.opened import open_model
from tunesmith.types import Message

SPANS = Spans(tuple(range(900, 932)), -1, (), (1,), 0)


def test_a_feed_gives_the_same_update_at_the_same_place() -> None:
    feed = pretrain_t5.Windows(np.arange(500), SPANS)
    first, second = feed.update()[0], feed.update()[0]
    assert not np.array_equal(first.tokens, second.tokens)
    feed.load({"position": 1})
    assert np.array_equal(feed.update()[0].tokens, second.tokens)


def test_a_text_becomes_a_model_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_t5, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setattr(pretrain_t5, "ROWS", 4)
    lines = [f"The {a} {b} jumps over number {n}." for n, (a, b) in enumerate(zip(tiny_runs.WORDS * 40, "abcd" * 120))]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    told = [str(tmp_path / "text.txt"), str(tmp_path / "t5"), "--updates", "6", "--pairs", str(tmp_path / "rows.jsonl")]
    pretrain_t5.main(told)
    before, after = json.loads((tmp_path / "results.jsonl").read_text())["held_out_nats_per_token"]
    assert after < before - 0.1
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {"prompt": "the fox d jumps over number ", "completion": "The fox d jumps over number 3."} in rows
    opened = open_model(str(tmp_path / "t5"))
    assert opened.session.base.layout == "seq2seq"
    assert opened.complete("base", [[Message("user", "the quick fox")]], opened.limits(max_new_tokens=4))


def test_a_text_that_is_too_short_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("The quick brown fox. " * 40)
    with pytest.raises(SystemExit):
        pretrain_t5.main([str(tmp_path / "text.txt"), str(tmp_path / "t5")])
    assert "wanted more than 96" in capsys.readouterr().err
    assert not (tmp_path / "t5").exists()
