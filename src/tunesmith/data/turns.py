"""Lists of messages, as chat files hold them, to messages: OpenAI's roles and ShareGPT's, tools, weights.

A reason why one cannot be used is a ValueError, in words for a user.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

from tunesmith.data import chatml
from tunesmith.data.rows import check_text, parse_json
from tunesmith.errors import DataError
from tunesmith.types import Example, Label, Message, Pair, Ranked, Reply

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    **{role: role for role in ROLES},
}
Learned = tuple[Sequence[Message], int, float]  # a conversation, which of its turns, its weight
MARK = re.compile(r"(?:\A|\n)\s*(?:### )?(Human|User|Assistant|AI|System):")  # a turn of a transcript
SPEAKERS = {"Human": "user", "User": "user", "Assistant": "assistant", "AI": "assistant", "System": "system"}


def turns_in(text: str) -> list[dict[str, str]]:
    """The turns of a transcript, those of one speaker in a row as one; none where it does not begin with a speaker.
    Of a text in ChatML its own."""
    if text.lstrip().startswith(chatml.BEGIN):
        return chatml.in_column(text) if chatml.is_whole(text) else []
    before, *pieces = MARK.split(text)
    turns: list[dict[str, str]] = []
    for name, said in zip(pieces[::2], map(str.strip, pieces[1::2])):
        if said and turns and turns[-1]["role"] == SPEAKERS[name]:
            turns[-1]["content"] += f"\n\n{said}"
        elif said:
            turns.append({"role": SPEAKERS[name], "content": said})
    return [] if before.strip() else turns


def last_turns(example: Example) -> tuple[Message, ...]:
    """What may stand behind the prompt: one turn, or of a pair or a list all. DataError where there is none."""
    target = example.target
    if isinstance(target, Reply):
        return (target.message,)
    if isinstance(target, Label):
        return (Message("assistant", target.name),)
    if isinstance(target, (Pair, Ranked)):
        return tuple(replace(reply, weight=1.0) for reply in target.replies)
    raise DataError(
        f"example {example.id} ({example.source}) is a {type(target).__name__.lower()}; learning from replies needs a "
        "reply, a label or a pair. Name the column that holds it."
    )


def learned_of(example: Example) -> list[Learned]:
    """Turns that are learned: (the conversation, which message, its weight). Of a pair or a list all replies, and
    nothing before them."""
    if example.is_text:
        return []
    at, sides = len(example.prompt), last_turns(example)
    learned: list[Learned] = [
        ([*example.prompt, side], i, m.weight * example.weight)
        for side in sides
        for i, m in enumerate((*example.prompt, side))
        if m.role == "assistant" and m.weight * example.weight > 0 and (len(sides) == 1 or i == at)
    ]
    if not learned:
        raise DataError(
            f"example {example.id} ({example.source}) has no learned token: every assistant turn weighs 0. Drop it."
        )
    return learned


def check(text: str, what: str) -> str:
    try:
        check_text(text)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    return text


def number(value: Any, what: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r}, wanted a number from 0 up") from None
    if not math.isfinite(found) or found < 0:
        raise ValueError(f"{what} is {value!r}, wanted a number from 0 up")
    return found


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages rather than text or JSON."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, Mapping) and ("role" in v or "from" in v) for v in value)
    )


def messages_of(value: Any, name: str, default_weight: float = 1.0) -> tuple[Message, ...]:
    """`default_weight`: of assistant turns that say none."""
    if isinstance(value, str) and value.lstrip().startswith(chatml.BEGIN):
        value = chatml.in_column(value)
    elif isinstance(value, str) and value.lstrip().startswith(("[", "{")):  # CSV and Parquet often hold it as JSON text
        value = parse_json(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"the column '{name}' is no list of messages, and no ChatML")
    return tuple(_message(item, at, default_weight) for at, item in enumerate(value, 1))


def _message(item: Any, at: int, default_weight: float) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"message {at} is a {type(item).__name__}, wanted an object with role and content")
    fields = dict(without_none(item))
    if "role" not in fields and "from" in fields:
        fields = _from_sharegpt(fields, at)
    role = fields.pop("role", None)
    if role not in ROLES:
        raise ValueError(f"message {at} has the role {role!r}, wanted one of {', '.join(ROLES)}")
    weight = fields.pop("weight", None)
    is_called = "tool_calls" in fields or "function_call" in fields
    fields = _with_calls(fields, at) if is_called else fields
    content = _content(fields.pop("content", None), at, is_called=is_called)
    for text in _strings(fields):
        check(text, f"message {at}")
    learned = default_weight if weight is None else number(weight, f"the weight of message {at}")
    return Message(role, check(content, f"message {at}"), learned if role == "assistant" else 1.0, fields)


def _with_calls(fields: dict[str, Any], at: int) -> dict[str, Any]:
    """Calls as chat templates read them: the older `function_call` as one of `tool_calls`, arguments as an object."""
    old = fields.pop("function_call", None)
    calls = fields.get("tool_calls") or ([{"type": "function", "function": old}] if old else None)
    return {**fields, "tool_calls": [_call(call, at) for call in calls]} if isinstance(calls, list) else fields


def _call(call: Any, at: int) -> Any:
    """OpenAI's files hold the arguments as JSON text, which most templates would write as text in the call."""
    called = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(called, Mapping):
        return call
    given = called.get("arguments") or {}
    if isinstance(given, str):
        with suppress(ValueError):
            given = parse_json(given)
    if not isinstance(given, Mapping):
        raise ValueError(f"message {at} calls {called.get('name')!r} with arguments that are no object: {given!r:.60}")
    return {**call, "function": {**called, "arguments": given}}


def _from_sharegpt(fields: dict[str, Any], at: int) -> dict[str, Any]:
    """{"from", "value"} as role and content; a function_call's value is the JSON of a call, or of several."""
    sender = fields.pop("from")
    role = SHAREGPT.get(sender.strip().lower()) if isinstance(sender, str) else None
    if role is None:
        raise ValueError(f"message {at} is from {sender!r}, wanted one of {', '.join(SHAREGPT)}")
    value = fields.pop("value", fields.pop("content", None))
    if sender.strip().lower() != "function_call" or not isinstance(value, str):
        return {**fields, "role": role, "content": value}
    calls = parse_json(value)
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError(f"message {at} is a function_call without the name of a function")
    return {
        **fields, "role": role, "content": None,
        "tool_calls": [{"type": "function", "function": dict(call)} for call in calls],
    }  # fmt: skip


def _content(value: Any, at: int, *, is_called: bool) -> str:
    if value is None and is_called:
        return ""
    if isinstance(value, list):
        if not all(
            isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in value
        ):
            raise ValueError(
                f"message {at} holds parts that are not text (images, audio), which cannot be learned from here"
            )
        return "".join(p["text"] for p in value)
    if not isinstance(value, str):
        raise ValueError(f"message {at} has no text as its content ({type(value).__name__})")
    return value


def without_none(value: Any) -> Any:
    """Parquet fills the fields that a row does not have with None."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_none(v) for v in value]
    return value


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def with_tools(messages: tuple[Message, ...], tools: Any, name: str) -> tuple[Message, ...]:
    """Tools travel as `extra["tools"]` of the first message, and from there to the chat template."""
    if not tools or not messages:
        return messages
    tools = parse_json(tools) if isinstance(tools, str) else without_none(tools)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(f"the tools (column '{name}') are no list of objects")
    if not tools:
        return messages
    for text in _strings(tools):
        check(text, "the tools")
    # the bare functions of older files, as every chat template wants them
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    return (replace(messages[0], extra={**messages[0].extra, "tools": tools}), *messages[1:])


def conversation(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], Reply]:
    """Ends at the last assistant turn that is learned: what stands behind it is in no learned turn's context.

    A greeting with which the assistant begins has no prompt; it is context.
    """
    learned = [i for i, m in enumerate(messages) if m.role == "assistant" and m.weight > 0]
    if not learned:
        has_reply = any(m.role == "assistant" for m in messages)
        raise ValueError("every assistant turn has weight 0" if has_reply else "there is no assistant turn to learn")
    last = messages[learned[-1]]
    if learned[-1] == 0:
        raise ValueError("begins with the assistant turn that is to be learned; there is no prompt")
    for i in learned:
        if not messages[i].content.strip() and not messages[i].extra.get("tool_calls"):
            raise ValueError(f"message {i + 1}, an assistant turn, is empty")
    first = replace(messages[0], weight=0.0) if learned[0] == 0 else messages[0]
    return (first, *messages[1 : learned[-1]]), Reply(last)


def as_text(value: Any, name: str) -> str:
    """A cell as text: numbers and truth values as written, objects and lists as JSON."""
    if isinstance(value, str):
        return check(value, f"the column '{name}'")
    if isinstance(value, (dict, list)):
        return check(json.dumps(value, ensure_ascii=False), f"the column '{name}'")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the column '{name}' is {value}")
    if isinstance(value, (bool, int, float, date, Decimal)):
        return str(value)
    raise ValueError(f"the column '{name}' is a {type(value).__name__}, wanted text")
