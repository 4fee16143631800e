"""ShareGPT and OpenAI's three files for fine-tuning: chat, preference, reinforcement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.data.chat import tokenizer

from tunesmith.data.ingest import Columns, Ingested, infer_task, read, task_of
from tunesmith.data.render import Renderer
from tunesmith.errors import DataError
from tunesmith.types import Message, Pair, Reply, Task

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SYSTEM = {"role": "system", "content": "s"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}


def read_rows(folder: Path, *rows: Any) -> Ingested:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read([path])


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def test_openai_chat(tmp_path: Path) -> None:
    row = {
        "messages": [user("a"), assistant("b", weight=0), user("c"), {"role": "assistant", "tool_calls": [CALL]}],
        "tools": [TOOL], "parallel_tool_calls": False,
    }  # fmt: skip
    found = read_rows(tmp_path, row)
    example = found.examples[0]
    assert [m.weight for m in example.prompt] == [1, 0, 1]
    assert example.prompt[0].extra["tools"] == [TOOL]
    assert isinstance(example.target, Reply)
    called = {"name": "weather", "arguments": {"city": "Ulm"}}  # as chat templates want it
    assert example.target.message.extra["tool_calls"] == [{**CALL, "function": called}]
    assert infer_task(found.columns, found) == "tools"  # every row ends with a call


def test_openai_chat_of_old_with_functions(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ""}}
    row = {"messages": [user("a"), called], "functions": [TOOL["function"]]}
    broken = {"messages": [user("a"), {**called, "function_call": {"name": "weather", "arguments": "Ulm"}}]}
    found = read_rows(tmp_path, row, broken)
    assert found.examples[0].prompt[0].extra["tools"] == [TOOL]
    assert isinstance(found.examples[0].target, Reply)
    assert found.examples[0].target.message.extra == {
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
    }
    assert infer_task(found.columns, found) == "tools"
    assert [r.reason for r in found.rejected] == ["message 2 calls 'weather' with arguments that are no object: 'Ulm'"]


def test_openai_preference(tmp_path: Path) -> None:
    row = {
        "input": {"messages": [user("a"), assistant("b"), user("c")], "tools": [TOOL], "parallel_tool_calls": True},
        "preferred_output": [assistant("good")], "non_preferred_output": [assistant("bad")],
    }  # fmt: skip
    example = read_rows(tmp_path, row).examples[0]
    assert [(m.role, m.content) for m in example.prompt] == [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert example.prompt[0].extra["tools"] == [TOOL]
    assert example.target == Pair(Message("assistant", "good"), Message("assistant", "bad"))


def test_openai_reinforcement(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [{"role": "developer", "content": "d"}, user("2+2?")],
            "reference_answer": {"n": 4},
            "hard": False,
        },
        {"messages": [user("3+3?")], "reference_answer": {"n": 6}},
        {"messages": [user("1+1?")]},
    ]
    found = read_rows(tmp_path, *rows)
    assert found.columns.facts == ("reference_answer", "hard")
    assert found.examples[0].prompt[-1] == Message("user", "2+2?")
    assert [e.target for e in found.examples] == [
        Task({"reference_answer": {"n": 4}, "hard": False}), Task({"reference_answer": {"n": 6}}),
    ]  # fmt: skip
    assert "none of the facts" in found.rejected[0].reason
    chats = read_rows(tmp_path, {"messages": [user("a"), assistant("b")], "source": "x"})
    assert chats.columns.facts is None
    assert chats.ignored == ("source",)


def test_prompts_alone_are_asked_where_none_is_answered(tmp_path: Path) -> None:
    found = read_rows(tmp_path, {"messages": [user("a")]}, {"messages": [SYSTEM, user("b")]})
    assert found.columns.facts == ()
    assert [e.target for e in found.examples] == [Task({}), Task({})]
    assert [m.content for m in found.examples[1].prompt] == ["s", "b"]
    assert task_of(found.columns, found) == ("reinforce", "each row holds a prompt, and no answer")
    mixed = read_rows(tmp_path, {"messages": [user("a"), assistant("b")]}, {"messages": [user("c")]})
    assert mixed.columns.facts is None
    assert [r.reason for r in mixed.rejected] == ["there is no assistant turn to learn"]
    thanked = read_rows(tmp_path, {"messages": [user("a"), assistant("b"), user("thanks")]})
    assert [e.target for e in thanked.examples] == [Reply(Message("assistant", "b"))]
    alone = read_rows(tmp_path, {"prompt": "a"}, {"prompt": [user("b")]})
    assert [(e.prompt[-1].content, e.target) for e in alone.examples] == [("a", Task({})), ("b", Task({}))]
    with pytest.raises(DataError, match=r"data\.columns\.facts=\[\]"):
        read_rows(tmp_path, {"prompt": "a", "id": 1})
    said = read([tmp_path / "a.jsonl"], Columns(prompt=("prompt",), facts=()))
    assert [e.target for e in said.examples] == [Task({})]


def test_sharegpt(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Ulm"}}'},
        {"from": "observation", "value": "rain"},
        {"from": "GPT", "value": "It rains."},
    ]
    row = {"conversations": turns, "system": "Be short.", "tools": json.dumps([TOOL["function"]])}
    example = read_rows(tmp_path, row).examples[0]
    assert [m.role for m in example.prompt] == ["system", "user", "assistant", "tool"]
    assert example.prompt[0].extra["tools"] == [TOOL]
    call = example.prompt[2].extra["tool_calls"][0]["function"]
    assert call == {"name": "weather", "arguments": {"city": "Ulm"}}
    assert example.target == Reply(Message("assistant", "It rains."))


def test_a_tool_call_that_the_template_leaves_out_is_not_learned_as_silence(tmp_path: Path) -> None:
    rows = [
        {"messages": [user("a"), {"role": "assistant", "tool_calls": [CALL]}]},
        {"messages": [user("a"), {"role": "assistant", "tool_calls": [CALL], "weight": 0}, assistant("b")]},
    ]
    rendered = Renderer(tokenizer("chatml"), 400).records(read_rows(tmp_path, *rows).examples)
    assert [len(rendered.records), len(rendered.dropped)] == [1, 1]
    assert "writes nothing of the tool call" in rendered.dropped[0][1]


def test_sharegpt_that_begins_with_the_assistant(tmp_path: Path) -> None:
    turns = [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert [m.weight for m in read_rows(tmp_path, {"conversations": turns}).examples[0].prompt] == [0, 1]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"from": "narrator", "value": "x"}, "message 2 is from 'narrator'"),
        ({"from": "function_call", "value": "no json"}, "is not JSON"),
        ({"from": "function_call", "value": "{}"}, "without the name of a function"),
    ],
)
def test_sharegpt_that_is_rejected(tmp_path: Path, turn: dict[str, str], reason: str) -> None:
    good = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    bad = {"conversations": [{"from": "human", "value": "q"}, turn, {"from": "gpt", "value": "a"}]}
    assert reason in read_rows(tmp_path, good, bad).rejected[0].reason


def test_one_conversation_as_a_json_object(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}))
    assert len(read([path]).examples) == 1
