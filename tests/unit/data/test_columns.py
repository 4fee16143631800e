"""Columns by their names, by what the user said, and conversations: one row to a prompt and a target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.data.test_ingest import ingest

from tunesmith.data.ingest import Columns, infer_task, read
from tunesmith.errors import DataError
from tunesmith.types import Label, Message, Pair, Reply

SHAPES: list[tuple[dict[str, object], str, str]] = [
    ({"instruction": "Do", "input": "x", "output": "y"}, "Do\n\nx", "y"),
    ({"instruction": "Do", "input": "", "output": "y"}, "Do", "y"),
    ({"question": "Q", "answer": "A", "final": "F"}, "Q", "A"),
    ({"document": "D", "summary": "S"}, "D", "S"),
    ({"dialogue": "D", "section_header": "H", "summary": "S"}, "D", "S"),
    ({"source": "en", "target": "pcm", "src_lang": "en", "tgt_lang": "pcm"}, "en", "pcm"),
    ({"query": "Q", "response": "R"}, "Q", "R"),
    ({"input": "I", "output": "O"}, "I", "O"),
    ({"Prompt": "P", "Completion": "C"}, "P", "C"),
    ({"text": "T", "score": -0.9, "label": "neg", "id": "1"}, "T", "neg"),
    ({"text": "T", "label": 1}, "T", "1"),
    ({"text": "T", "label": 2.0}, "T", "2"),
    ({"text": "T", "intent": " buy "}, "T", "buy"),
    ({"prompt": "P", "completion": {"a": 1}}, "P", '{"a": 1}'),
]


@pytest.mark.parametrize(("row", "prompt", "reply"), SHAPES)
def test_columns_by_name(tmp_path: Path, row: dict[str, object], prompt: str, reply: str) -> None:
    example = ingest(tmp_path, "a.jsonl", json.dumps(row)).examples[0]
    assert example.prompt == (Message("user", prompt),)
    assert isinstance(example.target, Label if {"label", "intent"} & set(row) else Reply)
    assert example.target.text == reply


def test_columns_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"subject": "S", "body": "B", "queue": "Q", "ticket": 7, "w": "2"}')
    found = read([path], Columns(prompt=("subject", "body"), label="queue", group="ticket", weight="w"))
    example = found.examples[0]
    assert (example.prompt[0].content, example.target, example.group, example.weight) == (
        "S\n\nB",
        Label("Q"),
        "7",
        2.0,
    )
    assert found.ignored == ()
    path.write_text('{"question": "Q", "answer": "A", "final": "F", "group": 3}')
    partly = read([path], Columns(reply="final"))
    assert (partly.examples[0].prompt[0].content, partly.examples[0].target.text, partly.ignored) == (
        "Q",
        "F",
        ("answer",),
    )
    assert partly.examples[0].group == "3"
    with pytest.raises(DataError, match="say which column is the prompt"):
        read([path], Columns(prompt=("answer",)))
    with pytest.raises(DataError, match="A pair needs both"):
        read([path], Columns(prompt=("question",), chosen="answer"))
    with pytest.raises(DataError, match="reply and label were named"):
        read([path], Columns(reply="answer", label="final"))
    with pytest.raises(DataError, match=r"no column 'anser'; the file has: question, answer, final, group"):
        read([path], Columns(reply="anser"))


def chat(*turns: tuple[object, ...], **row: object) -> str:
    messages = [{"role": t[0], "content": t[1], **(t[2] if len(t) > 2 else {})} for t in turns]  # type: ignore[dict-item]
    return json.dumps({"messages": messages, **row})


def test_messages_end_at_the_last_learned_turn(tmp_path: Path) -> None:
    lines = [
        chat(
            ("system", "s"),
            ("user", "a"),
            ("assistant", "b", {"weight": 0}),
            ("user", "c"),
            ("assistant", "d", {"weight": 0.5}),
        ),
        chat(("user", "a"), ("assistant", "b"), ("user", "thanks")),
        chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d", {"weight": 0})),
    ]
    examples = ingest(tmp_path, "a.jsonl", "\n".join(lines)).examples
    assert [m.weight for m in examples[0].prompt] == [1.0, 1.0, 0.0, 1.0]
    assert examples[0].target == Reply(Message("assistant", "d", 0.5))
    for example in examples[1:]:
        assert example.prompt == (Message("user", "a"),)
        assert example.target == Reply(Message("assistant", "b"))


BAD_CHATS: list[tuple[str, str]] = [
    (chat(("user", "a")), "no assistant turn"),
    (chat(("user", "a"), ("assistant", "b", {"weight": 0})), "weight 0"),
    (chat(("assistant", "b")), "there is no prompt"),
    (chat(("user", "a"), ("assistant", "")), "message 2, an assistant turn, is empty"),
    (chat(("user", "a"), ("bot", "b")), "the role 'bot'"),
    (chat(("user", "a"), ("assistant", "b", {"weight": -1})), "weight of message 2 is -1"),
    (chat(("user", None), ("assistant", "b")), "message 1 has no text"),
    (chat(("user", [{"type": "image_url"}]), ("assistant", "b")), "not text"),
    ('{"messages": []}', "no list of messages"),
    ('{"messages": ["a"]}', "message 1 is a str"),
    ('{"messages": "hello"}', "no list of messages, and no ChatML"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_CHATS)
def test_conversations_that_are_rejected(tmp_path: Path, row: str, reason: str) -> None:
    found = ingest(tmp_path, "a.jsonl", chat(("user", "a"), ("assistant", "b")) + "\n" + row)
    assert [reason in r.reason for r in found.rejected] == [True], found.rejected


def test_tools_and_tool_calls_are_kept(tmp_path: Path) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    row = chat(
        ("user", "a"),
        ("assistant", None, {"tool_calls": calls}),
        ("tool", "r", {"tool_call_id": "1"}),
        ("assistant", "b"),
        tools=tools,
    )
    parsed = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]
    example = ingest(tmp_path, "a.jsonl", row).examples[0]
    assert example.prompt[0].extra == {"tools": tools}
    assert example.prompt[1] == Message("assistant", "", 1.0, {"tool_calls": parsed})
    assert example.prompt[2].extra == {"tool_call_id": "1"}


def test_other_ways_to_write_conversations(tmp_path: Path) -> None:
    share = '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}'
    lists = json.dumps(
        {
            "prompt": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "c"},
            ],
            "completion": [{"role": "assistant", "content": "b"}],
        }
    )
    assert ingest(tmp_path, "a.jsonl", share).examples[0].prompt == (Message("user", "a"),)
    assert [m.weight for m in ingest(tmp_path, "b.jsonl", lists).examples[0].prompt] == [1, 0, 1]
    system = ingest(tmp_path, "c.jsonl", '{"system": "s", "prompt": "p", "completion": "c"}').examples[0]
    assert system.prompt == (Message("system", "s"), Message("user", "p"))


def test_preference_pairs(tmp_path: Path) -> None:
    plain = ingest(tmp_path, "a.jsonl", '{"prompt": "p", "chosen": "c", "rejected": "r"}').examples[0]
    assert plain.prompt == (Message("user", "p"),)
    assert plain.target == Pair(Message("assistant", "c"), Message("assistant", "r"))
    turns = {
        side: [{"role": "user", "content": "p"}, {"role": "assistant", "content": side[0]}]
        for side in ("chosen", "rejected")
    }
    assert ingest(tmp_path, "b.jsonl", json.dumps(turns)).examples[0].prompt == plain.prompt


TASKS: list[tuple[str, str]] = [
    ('{"text": "a", "label": "b"}', "classify"),
    ('{"document": "a", "summary": "b"}', "summarise"),
    ('{"source": "a", "target": "b", "src_lang": "en"}', "translate"),
    ('{"source": "a", "target": "b"}', "generate"),
    ('{"prompt": "a", "completion": "{\\"x\\": 1}"}', "extract"),
    ('{"prompt": "a", "completion": "{\\"x\\": 1"}', "generate"),
    (chat(("user", "a"), ("assistant", "b")), "chat"),
    ('{"question": "a", "answer": "b"}', "generate"),
]


@pytest.mark.parametrize(("row", "task"), TASKS)
def test_tasks_are_inferred_from_what_is_outright(tmp_path: Path, row: str, task: str) -> None:
    found = ingest(tmp_path, "a.jsonl", row)
    assert infer_task(found.columns, found) == task
