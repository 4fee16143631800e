"""Dialogues in one text become turns, where nearly all rows are such; and that is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.columns import Columns, prompt_of
from tunesmith.data.ingest import Ingested, read
from tunesmith.data.transcripts import is_transcript
from tunesmith.data.turns import turns_in
from tunesmith.types import Message, Pair

ASKED = "Human: Is it here?\n\nAssistant: What?\n\nHuman: The dog: where\nis it?"
TURNS = (Message("user", "Is it here?"), Message("assistant", "What?", 0.0), Message("user", "The dog: where\nis it?"))


def rows(folder: Path, *made: Any, columns: Columns | None = None) -> Ingested:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, made)))
    return read([path], columns)


def test_turns_by_hand() -> None:
    text = "\n\nHuman: a\n\nHuman: b\n### Assistant: c: d\nAI:\n\nUser: e "
    assert [(t["role"], t["content"]) for t in turns_in(text)] == [
        ("user", "a\n\nb"), ("assistant", "c: d"), ("user", "e"),
    ]  # fmt: skip
    assert turns_in("I said to him: Human: no") == turns_in("well\n\nHuman: a") == turns_in("") == []


def test_a_prompt_of_pairs_is_cut_and_that_is_said(tmp_path: Path) -> None:
    found = rows(tmp_path, *[{"prompt": ASKED, "chosen": f"yes {i}", "rejected": "no"} for i in range(30)])
    example = found.examples[0]
    assert example.prompt == TURNS
    assert isinstance(example.target, Pair)
    assert example.target.chosen.content == "yes 0"
    assert found.columns.transcripts == ("prompt",)
    [note] = found.notices
    assert "such as Human: Assistant:" in note
    assert "--set data.columns.transcripts=[]" in note


def test_the_assistant_may_be_called_and_say_nothing_yet(tmp_path: Path) -> None:
    found = rows(tmp_path, {"prompt": "\n\nHuman: Is it here?\n\nAssistant:", "chosen": "yes", "rejected": "no"})
    assert found.examples[0].prompt == TURNS[:1]


def test_whole_dialogues_on_both_sides(tmp_path: Path) -> None:
    """As Anthropic's files are: there is no column with the prompt."""
    row = {name: f"\n\n{ASKED}\n\nAssistant: {reply}" for name, reply in (("chosen", "Here."), ("rejected", "Gone."))}
    found = rows(tmp_path, row)
    [example] = found.examples
    assert [m.content for m in example.prompt] == [m.content for m in TURNS]
    assert example.target == Pair(Message("assistant", "Here."), Message("assistant", "Gone."))
    assert [m.content for m in prompt_of(row, found.columns)] == [m.content for m in TURNS]
    assert found.columns.transcripts == ("chosen", "rejected")


@pytest.mark.parametrize(
    ("made", "columns"),
    [
        ({"prompt": ASKED, "chosen": "a", "rejected": "b"}, Columns(transcripts=())),
        ({"prompt": ASKED, "chosen": "a", "rejected": "b"}, Columns(prompt=("{prompt}",))),
        ({"document": ASKED, "summary": "a"}, None),
        ({"text": ASKED, "label": "rude"}, None),
    ],
)
def test_what_is_said_or_is_about_a_dialogue_stays(tmp_path: Path, made: Any, columns: Columns | None) -> None:
    if columns is not None and columns.prompt:
        columns = Columns(prompt=columns.prompt, chosen="chosen", rejected="rejected")
    assert rows(tmp_path, made, columns=columns).examples[0].prompt == (Message("user", ASKED),)


def test_it_is_offered_for_replies(tmp_path: Path) -> None:
    made = {"prompt": ASKED, "completion": "yes"}
    found = rows(tmp_path, made)
    assert found.examples[0].prompt == (Message("user", ASKED),)
    assert "--set data.columns.transcripts=[prompt]" in found.notices[0]
    again = rows(tmp_path, made, columns=Columns(transcripts=("prompt",)))
    assert again.examples[0].prompt == TURNS
    assert again.notices == ()


def test_a_dialogue_that_ends_with_the_assistant_asks_nothing(tmp_path: Path) -> None:
    good = {"prompt": ASKED, "chosen": "a", "rejected": "b"}
    found = rows(tmp_path, good, {**good, "prompt": f"{ASKED}\n\nAssistant: There."})
    assert len(found.examples) == 1
    assert "ends with the assistant's turn" in found.rejected[0].reason


def test_few_that_look_so_are_no_transcripts() -> None:
    assert is_transcript([ASKED] * 19 + ["a plain question"])
    assert not is_transcript([ASKED] * 18 + ["a plain question"] * 2)
    assert not is_transcript(["Human: nobody answers"] * 20)
