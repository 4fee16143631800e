"""Attempts made by hand, for the tests of rewards."""

from __future__ import annotations

from typing import Any

from tunesmith.types import Attempt, Example, Message, Reply, Task


def attempt(
    text: str, *, num_tokens: int = 5, stopped: bool = True, tests: str = "", prompt: str = "q", **facts: Any
) -> Attempt:
    """With the facts that are given, "answer": "42" where there are none."""
    target = Task(facts or {"answer": "42"})
    example = Example("e", (Message("user", prompt),), target, source="rows.jsonl:1", tests=tests)
    return Attempt(example, text, stopped, num_tokens)


def replied(text: str, wanted: str) -> Attempt:
    """To an example whose data holds a reply."""
    reply = Reply(Message("assistant", wanted))
    return Attempt(Example("e", (Message("user", "q"),), reply, source="rows.jsonl:1"), text, True, 5)
