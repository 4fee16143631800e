"""Files with one row per message, as ticket systems export them, to one row per conversation.

The rows of a conversation may stand anywhere in the file. They are put in the order of their time, else of the file;
turns of one side that follow each other are joined. A conversation with a row that cannot be used is rejected whole:
without it, it would be another conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tunesmith.data.columns import Columns
from tunesmith.data.rows import Rejected, Row
from tunesmith.data.stamps import stamp
from tunesmith.data.turns import as_text

WRITERS = {
    "assistant": (
        "assistant agent support bot chatbot staff operator employee representative rep csr helpdesk help_desk advisor "
        "adviser support_agent customer_service customer_support service_agent ai model gpt outbound"
    ),
    "user": (
        "user customer client human end_user enduser requester visitor contact guest caller consumer buyer member "
        "prompter inbound"
    ),
    "system": "system developer",
    "tool": "tool function",
}
TURNS = {word: turn for turn, words in WRITERS.items() for word in words.split()}
# Where the day stands is told by the whole file: a format counts only if it fits every row
DATES = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y")
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


@dataclass(frozen=True, slots=True)
class Gathered:
    conversations: tuple[tuple[int, Row] | Rejected, ...]  # at the line of their first row
    num_messages: int  # rows of the file
    notices: tuple[str, ...]


def as_chats(columns: Columns) -> Columns:
    """How the rows that `gather` gives are read."""
    return replace(columns, messages=columns.content, conversation=None, role=None, content=None, time=None)


def gather(file: str, items: Iterable[tuple[int, Row]], columns: Columns) -> Gathered:
    """One row per conversation: the list of its messages stands under `columns.content`, the rest is that of its rows.

    Rows that belong to no conversation are rejected one by one.
    """
    threads: dict[str, list[tuple[int, Row]]] = {}
    found: list[tuple[int, Row] | Rejected] = []
    num_messages = 0
    for line, row in items:
        num_messages += 1
        key = row.get(columns.conversation or "")
        if key is None or str(key).strip() == "":
            found.append(Rejected(file, line, f"belongs to no conversation (column '{columns.conversation}' is empty)"))
        else:
            threads.setdefault(str(key).strip(), []).append((line, row))
    notices = []
    rank, note = _ranks([item for thread in threads.values() for item in thread], columns.time)
    notices += [f"{file}: {note}"] if note else []
    empty = 0
    for name, thread in threads.items():
        first = thread[0][0]
        try:
            row, left_out = _joined(sorted(thread, key=lambda item: (rank[item[0]], item[0])), columns)
            empty += left_out
            found.append((first, row))
        except ValueError as error:
            found.append(Rejected(file, first, f"the conversation {name!r}: {error}"))
    if empty:
        notices.append(f"{file}: {empty} messages without text were left out of their conversations")
    ordered = sorted(found, key=lambda item: item.line if isinstance(item, Rejected) else item[0])
    return Gathered(tuple(ordered), num_messages, tuple(notices))


def _joined(thread: Sequence[tuple[int, Row]], columns: Columns) -> tuple[Row, int]:
    """The conversation as one row, and how many of its messages hold no text."""
    row: Row = {}
    messages: list[dict[str, str]] = []
    left_out = 0
    for line, message in thread:
        for name, value in message.items():
            if row.get(name) in (None, ""):
                row[name] = value
        try:
            turn, text = _said(message, columns)
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
        if turn == "skip":
            continue
        if not text.strip():
            left_out += 1
        elif messages and messages[-1]["role"] == turn:
            messages[-1]["content"] += "\n\n" + text
        else:
            messages.append({"role": turn, "content": text})
    if not messages:
        raise ValueError("no message of it holds text")
    row[columns.content or ""] = messages
    return row, left_out


def _said(message: Row, columns: Columns) -> tuple[str, str]:
    """Whose turn it is, and its text."""
    writer, value = message.get(columns.role or ""), message.get(columns.content or "")
    said = {_word(name): turn for name, turn in columns.roles.items()}
    turn = said.get(_word(writer)) or TURNS.get(_word(writer))
    if turn is None:
        raise ValueError(
            f"{writer!r} (column '{columns.role}') is neither known as the customer's nor as the agent's side. Say "
            f"what it is: --set 'data.columns.roles={{\"{writer}\": assistant}}', or user, or skip"
        )
    return turn, "" if value is None else as_text(value, columns.content or "")


def _word(value: Any) -> str:
    return re.sub(r"[\s-]+", "_", str("" if value is None else value).strip().lower())


def _ranks(items: Sequence[tuple[int, Row]], time: str | None) -> tuple[Mapping[int, float], str | None]:
    """Line -> seconds since 1970, or the same for all where the file's order has to do; and a note of it."""
    same = {line: 0.0 for line, _ in items}
    if time is None or not items:
        return same, None
    values = [row.get(time) for _, row in items]
    stamps = _stamps(values)
    if stamps is None:
        shown = next((v for v in values if v not in (None, "")), None)
        return same, (
            f"the times in '{time}' (such as {shown!r}) are not all there or not all of one meaning: the messages of a "
            "conversation are in the order of the file"
        )
    return {line: stamp for (line, _), stamp in zip(items, stamps)}, None


def _stamps(values: Sequence[Any]) -> list[float] | None:
    """Seconds since 1970; None where one is missing, or where the day and the month cannot be told apart."""
    try:
        return [stamp(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        texts = [str(value).strip() for value in values]
    fitting = []
    for shape in (day + clock for day in DATES for clock in CLOCKS):
        try:
            fitting.append([datetime.strptime(text, shape).replace(tzinfo=UTC).timestamp() for text in texts])
        except ValueError:
            continue
    return fitting[0] if len(fitting) == 1 else None
