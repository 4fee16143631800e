"""Replies that somebody marked, as TRL's, LLaMA-Factory's and people's own files hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.columns import Columns
from tunesmith.data.examples import of_row, to_row
from tunesmith.data.ingest import Ingested, infer_task, read
from tunesmith.data.marks import Matched
from tunesmith.errors import DataError
from tunesmith.types import Label, Marked, Message, Reply


def rows(folder: Path, *made: Any, columns: Columns | None = None) -> Ingested:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, made)))
    return read([path], columns)


def both(name: str, good: Any, bad: Any, **row: Any) -> list[dict[str, Any]]:
    return [{**row, name: good}, {**row, name: bad}]


PLAIN = {"prompt": "Where?", "completion": "Here."}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("label", True, False), ("label", "True", "False"), ("thumb", "up", "down"), ("kto_tag", 1, 0), ("vote", 1, -1)],
)
def test_marks_by_name_and_value(tmp_path: Path, name: str, good: Any, bad: Any) -> None:
    found = rows(tmp_path, *both(name, good, bad, **PLAIN))
    assert [e.target for e in found.examples] == [
        Marked(Message("assistant", "Here."), True), Marked(Message("assistant", "Here."), False),
    ]  # fmt: skip
    assert (found.columns.mark, infer_task(found.columns, found)) == (name, "feedback")
    assert [of_row(to_row(e)) for e in found.examples] == list(found.examples)
    assert len({e.id for e in found.examples}) == 2


def test_conversations_with_a_mark(tmp_path: Path) -> None:
    """TRL's, with lists on both sides, and LLaMA-Factory's, with one."""
    ask, reply = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
    sides = rows(tmp_path, *both("label", True, False, prompt=[ask], completion=[reply]))
    whole = rows(tmp_path, *both("kto_tag", True, False, messages=[ask, reply]))
    for found in (sides, whole):
        assert found.examples[0].prompt == (Message("user", "Where?"),)
        assert found.examples[0].target == Marked(Message("assistant", "Here."), True)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (both("label", "yes", "no", **PLAIN), Reply),  # any word may be a label
        (both("vote", 3, 5, **PLAIN), Reply),  # stars
        ([{**PLAIN, "label": True}] * 2, Reply),  # one mark is none
        (both("label", True, False, text="Where?"), Label),
    ],
)
def test_what_is_no_mark(tmp_path: Path, made: list[Any], kind: type) -> None:
    assert isinstance(rows(tmp_path, *made).examples[0].target, kind)


@pytest.mark.parametrize(("name", "value"), [("label", True), ("kto_tag", "false"), ("thumb", "up")])
def test_a_file_that_begins_with_one_mark_is_said_to_be_learned_as_it_stands(
    tmp_path: Path, name: str, value: Any
) -> None:
    """Sorted by its marks, say: then bad replies would be learned as good ones."""
    [note] = rows(tmp_path, *[{**PLAIN, name: value}] * 3).notices
    assert f"--set data.columns.mark={name}" in note
    assert rows(tmp_path, *[{**PLAIN, name: value}] * 3, columns=Columns(mark=name)).notices == ()
    assert rows(tmp_path, *[{**PLAIN, "label": "yes"}] * 3).notices == ()


def test_a_mark_can_be_said_and_has_to_be_one(tmp_path: Path) -> None:
    said = Columns(prompt=("ask",), reply="answer", mark="ok")
    made = [{"ask": "a", "answer": "b", "ok": "yes"}, {"ask": "a", "answer": "c", "ok": "4 stars"}]
    found = rows(tmp_path, *made, columns=said)
    assert [e.target for e in found.examples] == [Marked(Message("assistant", "b"), True)]
    assert "'4 stars', wanted a mark" in found.rejected[0].reason
    with pytest.raises(DataError, match="beside label"):
        rows(tmp_path, *made, columns=Columns(prompt=("ask",), label="answer", mark="ok"))
    unsaid = rows(
        tmp_path, *both("label", True, False, **PLAIN), columns=Columns(prompt=("prompt",), reply="completion")
    )
    assert isinstance(unsaid.examples[0].target, Reply)


def test_one_prompt_alone_cannot_be_matched(tmp_path: Path) -> None:
    found = rows(tmp_path, *both("label", True, False, **PLAIN))
    with pytest.raises(DataError, match="no other reply to another prompt"):
        list(Matched(found.examples, found.examples))
