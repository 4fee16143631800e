"""The audit counts planted faults exactly, and says nothing of clean data."""

from __future__ import annotations

import json
from pathlib import Path

from tests.data.chat import tokenizer

from tunesmith.data.audit import audit, summary_lines, too_long
from tunesmith.data.ingest import read
from tunesmith.data.render import Renderer
from tunesmith.data.split import split


def run(folder: Path, train: list[str], test: list[str], max_tokens: int = 60) -> dict:
    (folder / "train.jsonl").write_text("\n".join(train))
    (folder / "test.jsonl").write_text("\n".join(test))
    ingested = read([folder / "train.jsonl"])
    held_out = read([folder / "test.jsonl"], ingested.columns)
    found = split(ingested.examples, 0.0, 0.0, "salt", given={"test": held_out.examples})
    rendered = Renderer(tokenizer("chatml"), max_tokens).records(found.train)
    return audit(ingested, found, rendered, [held_out])


def row(text: str, label: str) -> str:
    return json.dumps({"text": text, "label": label, "note": 1})


CLEAN = [row(f"the {'abcdefghij'[i % 10] * (1 + i // 10)} order", "buy" if i % 2 else "ask") for i in range(40)]
TEST = [row("something else", "buy"), row("quite another", "ask")]


def test_clean_data_gives_no_warning(tmp_path: Path) -> None:
    found = run(tmp_path, CLEAN, TEST)
    assert found["warnings"] == []
    assert (found["rows"], found["accepted"], found["rejected"]["count"]) == (42, 42, 0)
    assert found["classes"] == {"ask": {"train": 20, "dev": 0, "test": 1}, "buy": {"train": 20, "dev": 0, "test": 1}}
    assert found["ignored_columns"] == ["note"]
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, sort_keys=True))


def test_planted_faults_are_counted(tmp_path: Path) -> None:
    planted = [
        "not json",
        CLEAN[0],  # identical
        row("  The BB  Order".replace("BB", "b"), "buy"),  # like row 2 but for case and white space
        row("order 12 of 99 came", "ask"),
        row("order 13 of 98 came", "ask"),  # a twin but for digits
        row("the c order", "buy"),  # row 3 says ask
        row("word " * 100, "ask"),  # too long
        row("Something  else", "ask"),  # stands in test
    ]
    found = run(tmp_path, CLEAN + planted, [*TEST, row("order 77 of 66 came", "ask")])
    assert (found["rows"], found["accepted"], found["rejected"]["count"]) == (51, 50, 1)
    assert found["rejected"]["rows"][0]["line"] == 41
    assert found["duplicates"]["exact"]["count"] == 1
    assert found["duplicates"]["normalised"]["count"] == 2
    assert (found["contradictions"]["prompts"], found["contradictions"]["rows"]) == (1, 2)
    assert found["dropped"]["count"] == 1
    assert found["dropped"]["examples"][0]["source"].endswith("train.jsonl:47")
    assert (found["moved"]["count"], found["moved"]["examples"][0]["stands_in"]) == (1, "test")
    assert found["twins"]["count"] == 1
    assert found["splits"] == {"train": 46, "dev": 0, "test": 3}
    assert len(found["warnings"]) == 6


def test_a_held_out_row_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Mutant: an audit of the training file alone, where held-out cases go missing without a word."""
    found = run(tmp_path, CLEAN, [*TEST, "not json"])
    assert (found["rows"], found["accepted"], found["rejected"]["count"]) == (43, 42, 1)
    assert sum(found["splits"].values()) + found["moved"]["count"] == found["accepted"]
    [rejected] = found["rejected"]["rows"]
    assert (rejected["file"].endswith("test.jsonl"), rejected["line"]) == (True, 3)
    assert any("1 of 43 rows were rejected" in warning for warning in found["warnings"])
    assert found["understood"]["rows"] == 40  # of the file that is understood
    assert len(found["files"]) == 2


def test_many_examples_that_were_too_long_are_told_beside_the_verdict() -> None:
    found = {"splits": {"train": 100}, "cut": {"count": 66}, "dropped": {"count": 4}}
    [said] = too_long(found)
    assert said.startswith("66 of 100 training examples had their prompt cut in the middle")
    assert too_long({**found, "cut": {"count": 0}, "dropped": {"count": 5}})[0].startswith("5 of 100 training examples")


def test_token_counts_and_the_row_that_is_shown(tmp_path: Path) -> None:
    found = run(tmp_path, CLEAN, TEST)
    tokens = found["tokens"]
    assert tokens["learned_frac"] == tokens["learned"] / tokens["total"]
    assert tokens["length_quantiles"]["1"] >= tokens["length_quantiles"]["0.5"] > tokens["reply_quantiles"]["0.5"]
    pieces = found["understood"]["example"]["pieces"]
    assert [learned for _, learned in pieces] == [False, True]
    assert pieces[1][0] == "ask<|im_end|>"
    assert "the a order" in pieces[0][0]
    lines = summary_lines(found)
    assert any("42 read = 42 accepted + 0 rejected" in line for line in lines)
    assert any(line.startswith("columns") and "prompt = text, label = label; not used: note" in line for line in lines)
