"""Calls of functions, read from what a model wrote, and held against those that were wanted.

Chat templates write a call as JSON with a name and arguments, between marks of their own (Qwen's <tool_call>, Mistral's
[TOOL_CALLS], Llama's bare object with "parameters"); what stands around the JSON is passed by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tunesmith.evals.json_scores import refuse, same
from tunesmith.evals.text import as_text

ARGUMENTS = ("arguments", "parameters", "args")
Call = dict[str, Any]  # name, arguments
READER = json.JSONDecoder(parse_constant=refuse)


def calls_of(extra: Mapping[str, Any]) -> list[Call]:
    """Those of an assistant's turn, in OpenAI's shape."""
    return [call for item in extra.get("tool_calls") or () if (call := call_in(item)) is not None]


def calls_in(text: object) -> list[Call]:
    """Those of a text, in their order: every JSON object that names a function and its arguments."""
    said, at, found = as_text(text), 0, []
    while (at := said.find("{", at)) >= 0:
        try:
            value, end = READER.raw_decode(said, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        call = call_in(value)
        if call is None:
            at += 1  # perhaps one stands in it
        else:
            found.append(call)
            at = end
    return found


def call_in(value: Any) -> Call | None:
    """A call, whatever its keys are called; None where the value is none."""
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    given = next((value[key] or {} for key in ARGUMENTS if key in value), None)
    if isinstance(given, str):
        try:
            given = json.loads(given, parse_constant=refuse)
        except (ValueError, RecursionError):
            return None
    return {"name": value["name"], "arguments": dict(given)} if isinstance(given, Mapping) else None


def right(output: object, reference: object) -> float:
    """1 where the output makes the reference's calls, each with equal arguments, in any order, and no other. Where none
    is wanted, 1 for an output without a call, whatever it says."""
    left = calls_in(output)
    for wanted in calls_in(reference):
        at = next((k for k, call in enumerate(left) if same(call, wanted)), None)
        if at is None:
            return 0.0
        left.pop(at)
    return float(not left)


def names(output: object, reference: object) -> float:
    """1 where the functions that are called are those of the reference, whatever their arguments."""
    got, wanted = (sorted(call["name"] for call in calls_in(text)) for text in (output, reference))
    return float(got == wanted)
