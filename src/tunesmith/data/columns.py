"""Which columns mean what, and one raw row to a prompt and a target.

The names that people use are a table here. What was inferred is shown to the user (`Ingested.columns`) and every choice
can be said instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.data.rows import Row, check_text, parse_json
from tunesmith.errors import DataError
from tunesmith.types import Label, Message, Pair, Reply, Target

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SHAREGPT = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
MESSAGES = ("messages", "conversations", "conversation")
# (prompt columns, of which all but the first may be missing or empty; reply column), the first that fits wins
REPLIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("instruction", "input"), "output"),
    (("instruction", "context"), "response"),
    (("instruction", "input"), "response"),
    (("prompt",), "completion"),
    (("prompt",), "response"),
    (("prompt",), "output"),
    (("prompt",), "answer"),
    (("question", "context"), "answer"),
    (("question", "context"), "response"),
    (("question",), "output"),
    (("document",), "summary"),
    (("article",), "summary"),
    (("article",), "highlights"),
    (("dialogue",), "summary"),
    (("dialog",), "summary"),
    (("text",), "summary"),
    (("source",), "target"),
    (("src",), "tgt"),
    (("input",), "output"),
    (("input",), "target"),
    (("input",), "response"),
    (("query",), "response"),
    (("query",), "answer"),
)
LABELLED = tuple(
    (t, name)
    for name in ("label", "intent", "class", "sentiment", "category")
    for t in ("text", "sentence", "utterance", "content", "input")
)
PAIR_PROMPTS = (("prompt",), ("instruction", "input"), ("question",), ("query",))


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; None: inferred from the names in the file, or not there."""

    messages: str | None = None
    prompt: tuple[str, ...] | None = None  # joined by blank lines, empty ones left out
    reply: str | None = None
    label: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    system: str | None = None
    tools: str | None = None
    group: str | None = None
    weight: str | None = None

    def used(self) -> tuple[str, ...]:
        """All names that are read."""
        single = (
            self.messages,
            self.reply,
            self.label,
            self.chosen,
            self.rejected,
            self.system,
            self.tools,
            self.group,
            self.weight,
        )
        return tuple(self.prompt or ()) + tuple(name for name in single if name is not None)


def infer(names: Iterable[str], said: Columns) -> Columns:
    """The columns to read. What was said wins; DataError names what was found and what is wanted."""
    found = tuple(names)
    missing = [name for name in said.used() if name not in found]
    if missing:
        raise DataError(
            f"there is no column {', '.join(map(repr, missing))}; the file has: {', '.join(found) or 'none'}. Name "
            "one of these."
        )
    if bool(said.chosen) != bool(said.rejected):
        raise DataError("only one of the columns chosen and rejected was named. A pair needs both.")
    targets = [name for name in ("messages", "reply", "label", "chosen") if getattr(said, name) is not None]
    if len(targets) > 1:
        raise DataError(f"the columns {' and '.join(targets)} were named, and each of them is the target. Name one.")
    known = {name.strip().lower(): name for name in reversed(found)}
    extras = replace(
        said,
        group=said.group or known.get("group"),
        weight=said.weight or known.get("weight"),
        system=said.system or known.get("system"),
        tools=said.tools or known.get("tools"),
    )
    is_said = any((said.messages, said.prompt, said.reply, said.label, said.chosen, said.rejected))
    target = _said_target(said, known) if is_said else _inferred_target(known)
    if target is None:
        raise DataError(
            f"the columns {', '.join(map(repr, found)) or '(none)'} are none that are known. Wanted: messages; prompt "
            "+ completion; "
            "instruction + input + output; text + label; question + answer; document + summary; source + target … "
            "Rename them, or say which "
            "column is the prompt and which the reply or the label."
        )
    return replace(extras, **target)


def _said_target(said: Columns, known: Mapping[str, str]) -> dict[str, Any] | None:
    """What stands for prompt and target where the user named at least one of them."""
    if said.messages is not None or (said.chosen and said.rejected):
        return {}
    if said.prompt is not None and (said.reply or said.label):
        return {}
    tables = [(p, reply, "reply") for p, reply in REPLIES] + [((p,), label, "label") for p, label in LABELLED]
    for prompts, target, kind in tables:
        prompt = said.prompt or tuple(
            known[p] for p in prompts if p in known and known[p] not in (said.reply, said.label)
        )
        if not prompt or (said.prompt is None and prompts[0] not in known):
            continue
        if said.reply or said.label:
            return {"prompt": prompt}
        if target in known and known[target] not in prompt:
            return {"prompt": prompt, kind: known[target]}
    return None


def _inferred_target(known: Mapping[str, str]) -> dict[str, Any] | None:
    for name in MESSAGES:
        if name in known:
            return {"messages": known[name]}
    if "chosen" in known and "rejected" in known:
        prompt = next((tuple(known[p] for p in ps if p in known) for ps in PAIR_PROMPTS if ps[0] in known), None)
        return {"prompt": prompt, "chosen": known["chosen"], "rejected": known["rejected"]}
    for prompts, reply in REPLIES:
        if prompts[0] in known and reply in known:
            return {"prompt": tuple(known[p] for p in prompts if p in known), "reply": known[reply]}
    for text, label in LABELLED:
        if text in known and label in known:
            return {"prompt": (known[text],), "label": known[label]}
    return None


def content_of(row: Row, columns: Columns) -> tuple[tuple[Message, ...], Target]:
    """The prompt and the target of one row. ValueError with the reason where there is none."""
    if columns.messages is not None:
        return _conversation(_tooled(_messages(_value(row, columns.messages), columns.messages), row, columns))
    prompt = _prompt(row, columns)
    if columns.chosen is not None and columns.rejected is not None:
        prompt, chosen, rejected = _pair(prompt, _value(row, columns.chosen), _value(row, columns.rejected))
        return _tooled(prompt, row, columns), Pair(chosen, rejected)
    prompt = _tooled(prompt, row, columns)
    if columns.label is not None:
        return prompt, Label(_label(_value(row, columns.label), columns.label))
    assert columns.reply is not None
    value = _value(row, columns.reply)
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, Mapping) and ("role" in v or "from" in v) for v in value)
    ):
        return _conversation(prompt + _messages(value, columns.reply))
    reply = value if isinstance(value, str) else _as_text(value, columns.reply)
    if not reply.strip():
        raise ValueError(f"the reply (column '{columns.reply}') is empty")
    return prompt, Reply(Message("assistant", reply))


def weight_of(row: Row, columns: Columns) -> float:
    """The row's weight, 1 where there is none."""
    value = row.get(columns.weight) if columns.weight is not None else None
    weight = 1.0 if value is None or value == "" else _number(value, f"the weight (column '{columns.weight}')")
    if weight == 0:
        raise ValueError("its weight is 0: there is nothing to learn from it")
    return weight


def group_of(row: Row, columns: Columns) -> str | None:
    value = row.get(columns.group) if columns.group is not None else None
    if value is None or value == "":
        return None
    return check(str(value), "the group")


def _number(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r}, wanted a number from 0 up") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{what} is {value!r}, wanted a number from 0 up")
    return number


def check(text: str, what: str) -> str:
    try:
        check_text(text)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    return text


def _value(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise ValueError(f"has no column '{name}'" if name not in row else f"the column '{name}' is empty")
    return row[name]


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return check(value, f"the column '{name}'")
    if isinstance(value, (dict, list)):
        return check(json.dumps(value, ensure_ascii=False), f"the column '{name}'")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the column '{name}' is {value}")
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise ValueError(f"the column '{name}' is a {type(value).__name__}, wanted text")


def _label(value: Any, name: str) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a spreadsheet's 1.0
    if isinstance(value, (dict, list)):
        raise ValueError(f"the label (column '{name}') is a {type(value).__name__}, wanted one name")
    label = _as_text(value, name).strip()
    if not label:
        raise ValueError(f"the label (column '{name}') is empty")
    return label


def _prompt(row: Row, columns: Columns) -> tuple[Message, ...]:
    names = columns.prompt or ()
    if not names:
        return ()
    first = _value(row, names[0])
    system = str(row.get(columns.system) or "").strip() if columns.system is not None else ""
    head = (Message("system", check(system, "the system prompt")),) if system else ()
    if isinstance(first, list):
        turns = _messages(
            first, names[0], default_weight=0.0
        )  # a prompt's own replies are context unless they say otherwise
        return (head if turns[0].role != "system" else ()) + turns
    parts = [_as_text(row[name], name) for name in names if row.get(name) is not None]
    text = "\n\n".join(part for part in parts if part.strip())
    if not text:
        raise ValueError(f"the prompt (column {', '.join(map(repr, names))}) is empty")
    return head + (Message("user", text),)


def _messages(value: Any, name: str, default_weight: float = 1.0) -> tuple[Message, ...]:
    if isinstance(value, str):  # CSV and Parquet often hold it as JSON text
        value = parse_json(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"the column '{name}' is no list of messages")
    return tuple(_message(item, number, default_weight) for number, item in enumerate(value, 1))


def _message(item: Any, number: int, default_weight: float) -> Message:
    if not isinstance(item, Mapping):
        raise ValueError(f"message {number} is a {type(item).__name__}, wanted an object with role and content")
    fields = dict(_without_none(item))
    if "role" not in fields and "from" in fields:
        sender = fields.pop("from")
        if sender not in SHAREGPT:
            raise ValueError(f"message {number} is from {sender!r}, wanted one of {', '.join(SHAREGPT)}")
        fields |= {"role": SHAREGPT[sender], "content": fields.pop("value", None)}
    role = fields.pop("role", None)
    if role not in ROLES:
        raise ValueError(f"message {number} has the role {role!r}, wanted one of {', '.join(ROLES)}")
    weight = fields.pop("weight", None)
    content = _content(fields.pop("content", None), number, is_called="tool_calls" in fields)
    for text in _strings(fields):
        check(text, f"message {number}")
    learned = default_weight if weight is None else _number(weight, f"the weight of message {number}")
    return Message(role, check(content, f"message {number}"), learned if role == "assistant" else 1.0, fields)


def _content(value: Any, number: int, *, is_called: bool) -> str:
    if value is None and is_called:
        return ""
    if isinstance(value, list):
        if not all(
            isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in value
        ):
            raise ValueError(
                f"message {number} holds parts that are not text (images, audio), which cannot be learned from here"
            )
        return "".join(p["text"] for p in value)
    if not isinstance(value, str):
        raise ValueError(f"message {number} has no text as its content ({type(value).__name__})")
    return value


def _without_none(value: Any) -> Any:
    """Parquet fills the fields that a row does not have with None."""
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
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


def _tooled(messages: tuple[Message, ...], row: Row, columns: Columns) -> tuple[Message, ...]:
    """Tools of the row travel as `extra["tools"]` of the first message, and from there to the chat template."""
    tools = row.get(columns.tools) if columns.tools is not None else None
    if not tools:
        return messages
    tools = parse_json(tools) if isinstance(tools, str) else _without_none(tools)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(f"the tools (column '{columns.tools}') are no list of objects")
    if not tools:
        return messages
    for text in _strings(tools):
        check(text, "the tools")
    return (replace(messages[0], extra={**messages[0].extra, "tools": tools}), *messages[1:])


def _conversation(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], Reply]:
    """Ends at the last assistant turn that is learned: what stands behind it is in no learned turn's context."""
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
    return messages[: learned[-1]], Reply(last)


def _pair(prompt: tuple[Message, ...], chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], Message, Message]:
    sides = []
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        turns = _messages(value, name) if isinstance(value, list) else (Message("assistant", _as_text(value, name)),)
        if turns[-1].role != "assistant" or not turns[-1].content.strip():
            raise ValueError(f"the column '{name}' does not end with a reply")
        sides.append(turns)
    first, second = sides
    if first[:-1] != second[:-1]:
        raise ValueError("'chosen' and 'rejected' do not answer the same prompt")
    before = prompt if prompt and first[: len(prompt)] != prompt else ()
    prompt = before + first[:-1]
    if not prompt:
        raise ValueError("there is no prompt")
    return prompt, first[-1], second[-1]
