"""Which columns mean what, and one raw row to a prompt and a target. What was not said is inferred in `infer.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.data.fill import fill, is_template, names_in
from tunesmith.data.marks import is_good
from tunesmith.data.ranking import ranked
from tunesmith.data.rows import Row
from tunesmith.data.stamps import stamp
from tunesmith.data.turns import (
    as_text,
    check,
    conversation,
    is_messages,
    messages_of,
    number,
    turns_in,
    with_tools,
    without_none,
)
from tunesmith.types import Label, Marked, Message, Pair, Reply, Target, Task

NO_LABEL = "none"  # the answer where several labels may fit, and none does
BETWEEN = re.compile(r"[,;|\n]")  # two labels of one answer
Turn = Literal["user", "assistant", "system", "tool", "skip"]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; None: inferred from the names in the file, or not there."""

    messages: str | None = None  # a list of messages, each with role and content
    prompt: tuple[str, ...] | None = None  # columns or "{column}" templates, joined by blank lines, empty ones left out
    text: str | None = None  # a text that is learned as it is, without a prompt: for task pretrain
    reply: str | None = None  # a column, or a template such as "{answer} ({source})"
    label: str | None = None  # one of a few names, which the model has to choose; or a list of those that fit
    chosen: str | None = None  # the better one of two replies
    rejected: str | None = None  # the worse one
    ranked: str | None = None  # a list of replies to one prompt, with scores or ranks, or the best first
    scores: str | None = None  # beside such a list: their scores (more is better) or, named rank or ranks, their ranks
    mark: str | None = None  # beside a reply: whether somebody found it good (true) or bad (false)
    facts: tuple[str, ...] | None = None  # what a grader needs (`[]`: nothing); the prompt is answered by sampling
    conversation: str | None = None  # one row per message: which conversation it belongs to
    role: str | None = None  # one row per message: who wrote it
    content: str | None = None  # one row per message: what was written
    time: str | None = None  # one row per message: when; without it, the order of the file
    roles: Mapping[str, Turn] = field(default_factory=dict)  # what values of `role` mean that are not known
    system: str | None = None  # an instruction that differs from row to row
    # which of these hold a dialogue as one text (Human: … Assistant: …), to be cut into turns; null: told from the rows
    transcripts: tuple[str, ...] | None = None
    tools: str | None = None  # the functions that the model may call, as JSON
    group: str | None = None  # rows with one value stay together: a customer is in training or in the test
    weight: str | None = None  # how much a row counts; 0 is not learned
    slices: tuple[str, ...] = ()  # results are shown apart by them (language, region, gender); nothing is learned of it
    when: str | None = None  # the date or time at which a row came about, for data.split_by: time
    tests: str | None = None  # Python tests that the answer must pass, where it is a program: for the metric pass_at_k

    def used(self) -> tuple[str, ...]:
        """All columns that are read."""
        templates = (*(self.prompt or ()), *([] if self.reply is None else [self.reply]))
        single = (
            self.messages, self.text, self.label, self.chosen, self.rejected, self.ranked, self.scores, self.mark,
            *(self.facts or ()), self.conversation, self.role, self.content, self.time, self.system, self.tools,
            self.group, self.weight, self.tests, self.when, *self.slices, *(self.transcripts or ()),
        )  # fmt: skip
        found = [name for text in templates for name in names_in(text)] + [name for name in single if name is not None]
        return tuple(dict.fromkeys(found))


def content_of(row: Row, columns: Columns) -> tuple[tuple[Message, ...], Target]:
    """The prompt and the target of one row. ValueError with the reason where there is none."""
    prompt, target = _content(row, columns)
    if columns.mark is None:
        return prompt, target
    assert isinstance(target, Reply)
    mark = is_good(value := _value(row, columns.mark))
    if mark is None:
        raise ValueError(f"the column '{columns.mark}' is {value!r}, wanted a mark: true or false, 1 or 0, good or bad")
    return prompt, Marked(target.message, mark)


def _content(row: Row, columns: Columns) -> tuple[tuple[Message, ...], Target]:
    if columns.facts is not None:
        facts = {name: without_none(row[name]) for name in columns.facts if row.get(name) is not None}
        if columns.facts and not facts:
            raise ValueError(f"has none of the facts that a grader needs ({', '.join(map(repr, columns.facts))})")
        return prompt_of(row, columns), Task(facts)
    if columns.messages is not None:
        return conversation(_chat(row, columns))
    if columns.text is not None:
        return (), Reply(Message("assistant", _text(row, columns.text)))
    prompt = _prompt(row, columns)
    if columns.chosen is not None and columns.rejected is not None:
        prompt, chosen, rejected = _pair(prompt, row, columns)
        return _tooled(prompt, row, columns), Pair(chosen, rejected)
    prompt = _tooled(prompt, row, columns)
    if columns.ranked is not None:
        beside = None if columns.scores is None else _value(row, columns.scores)
        return prompt, ranked(_value(row, columns.ranked), columns.ranked, beside, columns.scores)
    if columns.label is not None:
        name = _value(row, columns.label)
        if isinstance(name, list):
            return prompt, Reply(Message("assistant", _labels(name, columns.label)))
        return prompt, Label(_label(name, columns.label))
    assert columns.reply is not None
    value = None if is_template(columns.reply) else _first_answer(_said(row, columns.reply, columns))
    if is_messages(value):
        return conversation(prompt + messages_of(value, columns.reply))
    reply = _filled(row, columns.reply) if value is None else as_text(value, columns.reply)
    if not reply.strip():
        raise ValueError(f"the reply (column '{columns.reply}') is empty")
    return prompt, Reply(Message("assistant", reply))


def prompt_of(row: Row, columns: Columns) -> tuple[Message, ...]:
    """What is to be answered in a row that may have no target: its prompt, as training would have read it.

    A conversation that ends with the assistant is asked for that turn again. A row of a file with one row per message
    is its own message alone, unless `threads.gather` made conversations of the rows. ValueError with the reason where
    there is no prompt.
    """
    if columns.conversation is not None and not isinstance(row.get(columns.content or ""), list):
        return (Message("user", _text(row, columns.content or "")),)
    if columns.messages is not None or columns.conversation is not None:
        messages = _chat(row, columns)
        asked = messages[:-1] if messages[-1].role == "assistant" else messages
    elif columns.prompt is None and columns.chosen is not None:
        asked = messages_of(_said(row, columns.chosen, columns), columns.chosen)[:-1]
    else:
        asked = _tooled(_prompt(row, columns), row, columns)
    if not asked:
        raise ValueError("there is no prompt")
    return asked


def weight_of(row: Row, columns: Columns) -> float:
    """The row's weight, 1 where there is none."""
    value = row.get(columns.weight) if columns.weight is not None else None
    weight = 1.0 if value is None or value == "" else number(value, f"the weight (column '{columns.weight}')")
    if weight == 0:
        raise ValueError("its weight is 0: there is nothing to learn from it")
    return weight


def group_of(row: Row, columns: Columns) -> str | None:
    value = row.get(columns.group) if columns.group is not None else None
    if value is None or value == "":
        return None
    return check(str(value), "the group")


def when_of(row: Row, columns: Columns) -> float | None:
    if columns.when is None:
        return None
    value = _value(row, columns.when)
    try:
        return stamp(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the column '{columns.when}' is {value!r}, wanted a year, a date such as 2024-03-01, or a number"
        ) from error


def slices_of(row: Row, columns: Columns) -> dict[str, str]:
    """Column -> what it says of the row; empty cells are left out."""
    said = {name: row[name] for name in columns.slices if row.get(name) is not None}
    texts = {name: check(str(value).strip(), f"the column '{name}'") for name, value in said.items()}
    return {name: text for name, text in texts.items() if text}


def tests_of(row: Row, columns: Columns) -> str:
    """The row's unit tests; a list of them is joined by line ends."""
    value = row.get(columns.tests) if columns.tests is not None else None
    lines = value if isinstance(value, list) else [value]
    return check("\n".join(str(line) for line in lines if line is not None), "the tests")


def _said(row: Row, name: str, columns: Columns) -> Any:
    """A column's value; of one that holds a transcript the list of its turns."""
    value = _value(row, name)
    is_transcript = name in (columns.transcripts or ()) and isinstance(value, str)
    return (turns_in(value) or value) if is_transcript else value


def _value(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise ValueError(f"has no column '{name}'" if name not in row else f"the column '{name}' is empty")
    return row[name]


def _text(row: Row, name: str) -> str:
    text = as_text(_value(row, name), name)
    if not text.strip():
        raise ValueError(f"the column '{name}' is empty")
    return text


def _filled(row: Row, text: str) -> str:
    """A column's value as text, or a template with those of its columns; "" where all of these are empty."""

    def value_of(name: str) -> str:
        return "" if row.get(name) is None else as_text(row[name], name)

    if not is_template(text):
        return value_of(text)
    return fill(text, value_of) if any(value_of(name).strip() for name in names_in(text)) else ""


def _label(value: Any, name: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a spreadsheet's 1.0
    if isinstance(value, (dict, list)):
        raise ValueError(f"the label (column '{name}') is a {type(value).__name__}, wanted one name")
    label = as_text(value, name).strip()
    if not label:
        raise ValueError(f"the label (column '{name}') is empty")
    return label


def _labels(names: list[Any], column: str) -> str:
    """Several labels as one answer, in the order of the alphabet; NO_LABEL where there are none."""
    found = sorted({_label(name, column) for name in names})
    odd = next((name for name in found if BETWEEN.search(name)), None)
    if odd is not None:
        raise ValueError(f"the label {odd!r} (column '{column}') holds a mark that stands between two labels (, ; |)")
    return ", ".join(found) or NO_LABEL


def _first_answer(value: Any) -> Any:
    """Of the right answers that SQuAD's files list, the first."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list) and "answer_start" in value:
        return value["text"][0] if value["text"] else ""
    return value


def _chat(row: Row, columns: Columns) -> tuple[Message, ...]:
    """The messages of a row, with its own system prompt and tools."""
    name = columns.messages or columns.content or ""
    messages = messages_of(_value(row, name), name)
    head = _system(row, columns) if messages[0].role not in ("system", "developer") else ()
    return _tooled(head + messages, row, columns)


def _system(row: Row, columns: Columns) -> tuple[Message, ...]:
    text = str(row.get(columns.system) or "").strip() if columns.system is not None else ""
    return (Message("system", check(text, "the system prompt")),) if text else ()


def _tooled(messages: tuple[Message, ...], row: Row, columns: Columns) -> tuple[Message, ...]:
    return messages if columns.tools is None else with_tools(messages, row.get(columns.tools), columns.tools)


def _prompt(row: Row, columns: Columns) -> tuple[Message, ...]:
    names = columns.prompt or ()
    if not names:
        return ()
    first = None if is_template(names[0]) else _said(row, names[0], columns)
    head = _system(row, columns)
    tools = None
    if isinstance(first, Mapping) and "messages" in first:  # OpenAI's preference file
        first, tools = first["messages"], first.get("tools")
    if isinstance(first, list):
        # a prompt's own replies are context unless they say otherwise
        turns = messages_of(first, names[0], default_weight=0.0)
        if names[0] in (columns.transcripts or ()) and turns[-1].role == "assistant":
            raise ValueError(f"the dialogue in '{names[0]}' ends with the assistant's turn, behind which none is asked")
        return with_tools((head if turns[0].role != "system" else ()) + turns, tools, names[0])
    parts = [_filled(row, name) for name in names]
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise ValueError(f"the prompt (column {', '.join(map(repr, names))}) is empty")
    return head + (Message("user", text),)


def _pair(prompt: tuple[Message, ...], row: Row, columns: Columns) -> tuple[tuple[Message, ...], Message, Message]:
    sides = []
    for name in (columns.chosen or "", columns.rejected or ""):
        value = _said(row, name, columns)
        value = [value] if isinstance(value, Mapping) and ("role" in value or "from" in value) else value
        turns = messages_of(value, name) if isinstance(value, list) else (Message("assistant", as_text(value, name)),)
        if turns[-1].role != "assistant" or not (turns[-1].content.strip() or turns[-1].extra):
            raise ValueError(f"the column '{name}' does not end with a reply")
        sides.append(turns)
    first, second = sides
    if first[:-1] != second[:-1]:
        raise ValueError(f"'{columns.chosen}' and '{columns.rejected}' do not answer the same prompt")
    before = prompt if prompt and first[: len(prompt)] != prompt else ()
    prompt = before + first[:-1]
    if not prompt:
        raise ValueError("there is no prompt")
    return prompt, first[-1], second[-1]
