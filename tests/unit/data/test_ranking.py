"""Lists of replies to one prompt, in the shapes that people's files have, to an order without ties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.columns import Columns
from tunesmith.data.examples import of_row, to_row
from tunesmith.data.ingest import Ingested, infer_task, read
from tunesmith.types import Message, Pair, Ranked, Reply


def rows(folder: Path, *made: Any, columns: Columns | None = None) -> Ingested:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, made)))
    return read([path], columns)


def texts(target: Any) -> list[str]:
    return [reply.content for reply in target.replies]


SCORED = [{"text": "b", "score": -2}, {"text": "a", "score": 7.5}, {"text": "c", "score": "-3"}]
SHAPES: list[dict[str, Any]] = [
    {"prompt": "q", "completions": SCORED},
    {"prompt": "q", "completions": json.dumps(SCORED)},  # as CSV has it
    {"instruction": "q", "completions": [{"response": t["text"], "overall_score": t["score"]} for t in SCORED]},
    {"question": "q", "answers": [{"answer": "c", "rank": 3}, {"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
    {"prompt": "q", "responses": ["b", "a", "c"], "scores": [0.1, 0.9, 0.0]},
    {"prompt": "q", "responses": ["b", "a", "c"], "ranks": [2, 1, 3]},
    {"prompt": "q", "ranking": ["a", "b", "c"]},
]


@pytest.mark.parametrize("row", SHAPES)
def test_shapes(tmp_path: Path, row: dict[str, Any]) -> None:
    found = rows(tmp_path, row)
    [example] = found.examples
    assert example.prompt == (Message("user", "q"),)
    assert texts(example.target) == ["a", "b", "c"]
    assert infer_task(found.columns, found) == "preferences"
    assert of_row(to_row(example)) == example
    assert "1 lists of replies hold 3 pairs, 3.0 each; a list counts as one example" in found.notices[0]


def test_ties_and_repeats_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    four = [*SCORED, {"text": "d", "score": 7.5}, {"text": "b ", "score": 9}]
    found = rows(
        tmp_path, {"prompt": "q", "completions": four}, {"prompt": "r", "completions": SCORED[:2]},
        {"prompt": "s", "completions": [SCORED[0], {"text": "e", "score": -2}]},
    )  # fmt: skip
    assert texts(found.examples[0].target) == ["b ", "a", "c"]
    assert found.examples[1].target == Pair(Message("assistant", "a"), Message("assistant", "b"))
    assert "2 lists of replies hold 4 pairs, 2.0 each" in found.notices[0]
    assert "2 replies that tie" in found.notices[0]
    assert "no two replies of which one is better" in found.rejected[0].reason


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "q", "completions": [SCORED[0], {"text": "x"}]}, "neither a score nor a rank"),
        ({"prompt": "q", "completions": [SCORED[0], {"score": 1}]}, "has no text"),
        ({"prompt": "q", "completions": [SCORED[0], {"text": "x", "score": "good"}]}, "is 'good', wanted a number"),
        ({"prompt": "q", "completions": [SCORED[0], {"text": "x", "score": "nan"}]}, "is 'nan', wanted a number"),
        ({"prompt": "q", "completions": "none"}, "is no list of replies"),
    ],
)
def test_what_cannot_be_used_is_rejected_with_the_reason(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    found = rows(tmp_path, SHAPES[0], row)
    assert why in found.rejected[0].reason


def test_answers_without_scores_are_no_ranking(tmp_path: Path) -> None:
    found = rows(tmp_path, {"question": "q", "answers": ["a", "b"]})
    assert isinstance(found.examples[0].target, Reply)


def test_columns_can_be_said(tmp_path: Path) -> None:
    row = {"ask": "q", "tries": ["b", "a", "c"], "marks": [1, 2, 0]}
    found = rows(tmp_path, row, columns=Columns(prompt=("ask",), ranked="tries", scores="marks"))
    assert isinstance(found.examples[0].target, Ranked)
    assert texts(found.examples[0].target) == ["a", "b", "c"]
    uneven = rows(
        tmp_path, row, {**row, "marks": [1]}, columns=Columns(prompt=("ask",), ranked="tries", scores="marks")
    )
    assert "holds 1 numbers, and there are 3 replies" in uneven.rejected[0].reason


TRIPLES = [("prompt", "preferred", "dispreferred"), ("anchor", "positive", "negative"), ("question", "better", "worse"),
           ("query", "accepted", "rejected")]  # fmt: skip


@pytest.mark.parametrize(("prompt", "good", "bad"), TRIPLES)
def test_triples_by_the_names_that_people_use(tmp_path: Path, prompt: str, good: str, bad: str) -> None:
    found = rows(tmp_path, {prompt: "q", good: "a", bad: "b"})
    assert found.examples[0].target == Pair(Message("assistant", "a"), Message("assistant", "b"))
    assert found.examples[0].prompt == (Message("user", "q"),)


@pytest.mark.parametrize("num", [12, "12"])
def test_counted_votes_are_no_replies(tmp_path: Path, num: Any) -> None:
    """Of which the model would learn to prefer one number to another."""
    row = {"prompt": "q", "response": "a", "good": num, "bad": 3}
    assert rows(tmp_path, row, row).examples[0].target == Reply(Message("assistant", "a"))
    sums = {"prompt": "2 * 6?", "chosen": num, "rejected": 3}
    assert rows(tmp_path, sums).examples[0].target == Pair(Message("assistant", "12"), Message("assistant", "3"))
