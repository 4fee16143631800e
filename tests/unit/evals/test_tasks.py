"""The table of tasks: each is whole, told from columns where these are certain, and brings what its name promises."""

from __future__ import annotations

import copy
import json
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.data import chat
from tests.runs import tiny_runs

from tunesmith.data.columns import Columns
from tunesmith.data.ingest import Ingested, read, task_of
from tunesmith.data.render import Renderer
from tunesmith.evals import calls
from tunesmith.evals.json_scores import same
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.tasks import (
    KINDS,
    WRITTEN,
    Form,
    TaskName,
    answer_message,
    answer_text,
    forms,
    instructed,
    own_instruction,
)  # fmt: skip
from tunesmith.method import longest_reply
from tunesmith.objectives.policy import Policy
from tunesmith.questions import Said, of_files
from tunesmith.types import Example, Message, Reply

WEATHER = {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def rows(path: Path, *found: dict[str, Any], columns: Columns | None = None) -> Ingested:
    return read([tiny_runs.written(path / "rows.jsonl", list(found))], columns)


def test_the_table_is_whole() -> None:
    assert typing.get_args(TaskName) == ("auto", *KINDS)
    assert set(WRITTEN) <= set(KINDS)
    for name, kind in KINDS.items():
        assert {kind.metric, *kind.secondary} <= set(METRICS), name
        assert kind.about, name
        assert kind.least_tokens <= kind.most_tokens
        reads = any(METRICS[m].needs == "answer" for m in (kind.metric, *kind.secondary))
        assert reads or kind.scoring == "text" or kind.prefers or kind.rewards


SQUAD = {"context": "Oslo lies by the sea.", "question": "Where?", "answers": {"text": ["by the sea", "the sea"],
         "answer_start": [10, 13]}, "id": "1", "title": "Oslo"}  # fmt: skip
CALLED = {"messages": [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "function": {"name": "weather", "arguments": '{"days": 2, "city": "Oslo"}'}}]}],
    "tools": TOOLS}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "task", "answer"),
    [
        (SQUAD, "qa", "by the sea"),
        ({"question": "Why?", "document": "So it is.", "answer": "So."}, "qa", "So."),
        ({"question": "Why?", "answer": "So."}, "generate", "So."),
        ({"instruction": "Why?", "context": "So it is.", "response": "So."}, "generate", "So."),
        ({"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}, "reason", "2 + 2 = 4\n#### 4"),
        ({"question": "2 + 2?", "answer": 4.0}, "number", "4.0"),
        ({"question": "Owed?", "answer": "-1,250.50"}, "number", "-1,250.50"),
        ({"question": "When?", "answer": "4 May"}, "generate", "4 May"),
        ({"question": "Is it?", "answer": "It may be.\n#### yes"}, "generate", "It may be.\n#### yes"),
        ({"text": "A dog and a fox.", "labels": ["fox", "dog", "fox"]}, "multilabel", "dog, fox"),
        ({"text": "Nobody.", "labels": []}, "multilabel", "none"),
        ({"text": "A dog.", "labels": "dog"}, "classify", "dog"),
        (CALLED, "tools", json.dumps([{"name": "weather", "arguments": {"days": 2, "city": "Oslo"}}])),
        ({"text": "As it is."}, "pretrain", "As it is."),
        ({"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "preferences", "Hello."),
    ],
)
def test_auto_tells_a_task_where_the_columns_are_certain(
    row: dict[str, Any], task: str, answer: str, tmp_path: Path
) -> None:
    found = rows(tmp_path, row)
    assert task_of(found.columns, found)[0] == task
    assert answer_text(found.examples[0]) == answer


def test_one_row_that_is_not_so_makes_it_uncertain(tmp_path: Path) -> None:
    marked, plain = {"question": "2?", "answer": "It is\n#### 2"}, {"question": "3?", "answer": "Three."}
    said = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi."}], "tools": TOOLS}
    for mixed, task in (((marked, plain), "generate"), ((CALLED, said), "chat")):
        found = rows(tmp_path, *mixed)
        assert task_of(found.columns, found)[0] == task


def test_labels_that_hold_what_stands_between_two_are_rejected(tmp_path: Path) -> None:
    found = rows(
        tmp_path, {"text": "a", "labels": ["x"]}, {"text": "b", "labels": ["y, z"]}, {"text": "c", "labels": [[1]]}
    )
    assert len(found.examples) == 1
    assert ["stands between two labels" in r.reason for r in found.rejected] == [True, False]
    unanswered = {**SQUAD, "answers": {"text": [], "answer_start": []}}
    assert "is empty" in rows(tmp_path, SQUAD, unanswered).rejected[0].reason


def test_the_labels_of_all_sets_stand_in_the_instruction(tmp_path: Path) -> None:
    found = rows(tmp_path, *({"text": t, "labels": n} for t, n in (("a", ["fox", "dog"]), ("b", []), ("c", ["cat"]))))
    said = own_instruction("multilabel", (), found.examples)
    assert "cat, dog, fox?" in said
    assert "none," not in said
    assert own_instruction("classify", ("a", "b"), ()) == KINDS["classify"].instruction.format(labels="a, b")
    assert METRICS["label_set_f1"].corpus(["dog, fox", "none", "fox"], [answer_text(e) for e in found.examples]) == 0.75


def test_reasoning_has_room(tmp_path: Path) -> None:
    renderer = Renderer(chat.tokenizer("chatml"), 2048)
    user = Message("user", "x")
    short = renderer.records([_reply("e-1", user, "a")])
    long = renderer.records([_reply("e-1", user, "word " * 300)])
    assert longest_reply(short, KINDS["reason"], Policy()) == 256
    assert longest_reply(short, KINDS["chat"], Policy()) < 16
    assert longest_reply(long, KINDS["chat"], Policy()) == 512
    assert 512 < longest_reply(long, KINDS["reason"], Policy()) <= 1024
    assert longest_reply(long, KINDS["reinforce"], Policy(max_new_tokens=33)) == 33
    steps = {"question": "2?", "answer": "word " * 900 + "\n#### 2"}
    [path] = rows(tmp_path, steps).files
    assert of_files([path], Said()).max_new_tokens == KINDS["reason"].most_tokens


def _reply(name: str, user: Message, text: str) -> Example:
    return Example(name, (user,), Reply(Message("assistant", text)))


# -- calls ------------------------------------------------------------------------------------------------------------

WRITTEN_CALLS = {
    "bare": '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}',
    "Qwen": '<tool_call>\n{"name": "weather", "arguments": {"days": 2, "city": "Oslo"}}\n</tool_call>',
    "Llama": '<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}',
    "Mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}]',
    "OpenAI": json.dumps([{"function": {"name": "weather", "arguments": json.dumps(WEATHER["arguments"])}}]),
    "with words": 'I will {look}: {"name": "weather", "arguments": {"city": "Oslo", "days": 2.0}} So.',
}  # fmt: skip
WRONG_CALLS = {
    "another name": '{"name": "wether", "arguments": {"city": "Oslo", "days": 2}}',
    "another argument": '{"name": "weather", "arguments": {"city": "Bergen", "days": 2}}',
    "true is not 1": '{"name": "weather", "arguments": {"city": "Oslo", "days": true}}',
    "one missing": '{"name": "weather", "arguments": {"city": "Oslo"}}',
    "one invented": '{"name": "weather", "arguments": {"city": "Oslo", "days": 2, "unit": "C"}}',
    "twice": '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}} ' * 2,
    "not closed": '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}',
    "arguments that are no object": '{"name": "weather", "arguments": "Oslo"}',
    "nothing": "",
    "NaN": '{"name": "weather", "arguments": {"city": "Oslo", "days": NaN}}',
}


def test_calls_are_right_by_name_and_arguments() -> None:
    reference = json.dumps([WEATHER])
    assert {how: calls.right(said, reference) for how, said in WRITTEN_CALLS.items()} == dict.fromkeys(WRITTEN_CALLS, 1)
    assert {how: calls.right(said, reference) for how, said in WRONG_CALLS.items()} == dict.fromkeys(WRONG_CALLS, 0)
    named = [how for how, said in WRONG_CALLS.items() if calls.names(said, reference)]
    assert named == ["another argument", "true is not 1", "one missing", "one invented"]
    assert calls.right("It is sunny.", "No call is needed.") == 1
    assert calls.right(reference, "No call is needed.") == 0
    both = json.dumps([WEATHER, {"name": "time", "arguments": {}}])
    assert calls.right('{"name": "time", "arguments": {}} ' + json.dumps(WEATHER), both) == 1  # in any order
    assert calls.right(json.dumps([WEATHER, WEATHER]), both) == 0
    bare = json.dumps([{"name": "time", "arguments": {}}])
    assert calls.right('{"name": "time", "arguments": null}', bare) == 1


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3_1", "mistral_nemo"])
def test_a_call_as_a_chat_template_writes_it_is_read_as_the_one_that_was_meant(family: str, tmp_path: Path) -> None:
    """Mutant beside it: the reference's own text in the place of its calls, which no template writes."""
    called = {**CALLED, "messages": [CALLED["messages"][0], {**CALLED["messages"][1], "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": WEATHER}]}]}  # fmt: skip
    [example] = rows(tmp_path, called).examples
    renderer = Renderer(chat.tokenizer(family), 512)
    tokens = renderer.reply(example.prompt, answer_message(example))
    said = renderer.text(tokens)
    assert calls.right(said, answer_text(example)) == 1, said
    assert calls.right(said, example.target.text) == 0  # type: ignore[union-attr]


TEXTED = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name + ' ' + call.function.arguments }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_arguments_that_a_file_holds_as_text_are_learned_as_the_template_writes_objects(tmp_path: Path) -> None:
    [example] = rows(tmp_path, CALLED).examples
    wanted = json.dumps({"days": 2, "city": "Oslo"})
    texted = copy.deepcopy(chat.tokenizer("chatml"))
    texted.chat_template = TEXTED  # as DeepSeek's: text is put before them, which an object would not stand
    for tokenizer, said in ((chat.tokenizer("qwen2_5"), f'"arguments": {wanted}'), (texted, f"weather {wanted}")):
        renderer = Renderer(tokenizer, 512)
        assert said in renderer.text(renderer.reply(example.prompt, answer_message(example)))


def test_the_functions_stand_at_the_first_turn_whatever_is_put_before_it(tmp_path: Path) -> None:
    [example] = rows(tmp_path, CALLED).examples
    told = instructed(example, "Be brief.").prompt
    assert [("tools" in m.extra) for m in told] == [True, False]
    other = replace(example, id="o", prompt=(replace(example.prompt[0], extra={"tools": [{"name": "other"}]}),))
    shown = Form("few", "system", (other,)).prompt(example, "Be brief.")
    assert [m.role for m in shown] == ["system", "user", "assistant", "user"]
    assert shown[0].extra["tools"] == TOOLS
    assert not any("tools" in m.extra for m in shown[1:])
    assert shown[2].extra["tool_calls"]
    assert shown[2].weight == 0
    assert same(calls.calls_of(shown[2].extra), [WEATHER])
    assert len(forms([example] * 3, 1, "", ())) == 2
