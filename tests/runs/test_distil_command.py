"""A teacher behind an address writes rows: with provenance, once each, and in a form that a run learns from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import tiny_runs
from tests.runs.mistakes import typed
from tests.unit.evals.test_judge import completion, server

from tunesmith.data import ingest
from tunesmith.evals import endpoint


def test_rows_of_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs out of credit after three answers, and goes on; an empty answer is left out and counted.

    Every prompt is answered, and so paid for, once. Mutants: answers under way at the first refusal are dropped (one is
    asked again); what is queued is asked on until the refusal is noticed (more than the four under way are refused).
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endpoint, "NUM_TRIES", 1)
    rows = [json.loads(line) for line in tiny_runs.reply_file(tmp_path / "own.jsonl", 12).read_text().splitlines()]
    prompts = [r["prompt"] for r in rows]
    tiny_runs.written(tmp_path / "own.jsonl", [{**r, "group": f"g{i}"} for i, r in enumerate(rows)])
    credit, answered = [3], []

    def teach(body: dict[str, Any], headers: dict[str, str]) -> Any:
        said = body["messages"][-1]["content"]
        credit[0] -= 1
        if credit[0] < 0:
            return 401, {}, "no credit left"
        if not answered:
            time.sleep(0.5)  # still under way when the others are refused
        answered.append(said)
        return completion(" " if said == prompts[0] else f"taught: {said.split()[0]}")

    with server(teach) as (url, seen):
        words = ["distil", f"{url}#big", "--data", "own.jsonl", "--out", "taught.jsonl", "--json"]
        assert "no credit left" in typed(words).text
        assert not Path("taught.jsonl").exists()
        assert "add --resume" in typed(words).text
        credit[0] = 10**6
        said = typed([*words, "--resume"])
        assert said.code == 0, said.text
        assert sorted(answered) == sorted(prompts)
        assert len(seen) <= 12 + endpoint.NUM_AT_ONCE
    facts = json.loads(said.out)
    assert (facts["num_asked"], facts["num_rows"], facts["left_out"]["empty"]) == (12, 11, 1)
    assert facts["model"] == "big" == json.loads(Path("taught.jsonl.teacher.json").read_text())["model"]
    assert not Path("taught.jsonl.partial").exists()
    written = [json.loads(line) for line in Path("taught.jsonl").read_text().splitlines()]
    assert {r["answers"] for r in written} == {f"own.jsonl:{i}" for i in range(2, 13)}
    assert all("big" in r["teacher"] for r in written)
    found = ingest.read([Path("taught.jsonl")])
    assert (len(found.examples), found.rejected) == (11, ())
    assert {(e.prompt[-1].content, e.target.text, e.group) for e in found.examples} == {  # type: ignore[union-attr]
        (p, f"taught: {p.split()[0]}", f"g{i}") for i, p in enumerate(prompts) if i
    }
    assert "is there already" in typed(words).text
    Path("taught.jsonl").rename("moved.jsonl")
    assert "taught.jsonl.teacher.json says where rows came from" in typed(words).text
    assert "--yes-send" in typed([*words[:1], "https://example.org/v1#big", *words[2:5], "new.jsonl"]).text


def test_an_answer_that_names_no_label_is_counted_as_that(tmp_path: Path) -> None:
    data = tiny_runs.labelled_file(tmp_path / "rows.jsonl", 9)
    said = iter(["fox", "a fox or a dog", " ", *["dog"] * 6])
    with server(lambda body, headers: completion(next(said))) as (url, _):
        done = typed(["distil", f"{url}#big", "--data", str(data), "--out", str(tmp_path / "taught.jsonl"), "--json"])
    facts = json.loads(done.out)
    assert facts["num_rows"] == 7
    assert facts["left_out"] == {"empty": 1, "cut off at the limit of tokens": 0, "names no single label": 1}
