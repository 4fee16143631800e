"""OpenAI's chat completions on the wire: what a request may say, and what is answered.

A field that would change the answer and that this server does not know is refused by name, never passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import InputError
from tunesmith.types import Message

MOST_ANSWERS, MOST_STOPS, MOST_TOP = 8, 4, 20
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
READ = (
    *("model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
    *(
        "n",
        "stop",
        "seed",
        "logprobs",
        "top_logprobs",
        "response_format",
        "user",
    ),  # `user` names a person to OpenAI and asks for nothing
)
# Fields that clients send with the value that asks for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "modalities": (["text"],),
    "store": (False,),
}


class Refused(InputError):
    """A request that is not answered, in the words and with the code of OpenAI's errors."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status, self.param, self.code = status, param, code
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        return error_body(self.status, str(self), self.param, self.code)


KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, checked. None: the server decides."""

    model: str
    turns: tuple[Message, ...]
    stream: bool
    with_usage: bool
    temperature: float
    top_p: float
    max_tokens: int | None
    num: int
    stop: tuple[str, ...]
    seed: int | None
    with_logprobs: bool
    top: int
    schema: Any  # JSON schema that the answer has to fit; None: it may be any text


def bad(param: str, found: Any, wanted: str) -> Refused:
    shown = json.dumps(found, ensure_ascii=False)[:80]
    return Refused(400, f"{param} is {shown}; wanted {wanted}", param=param, code="invalid_value")


def parse(body: Any) -> Asked:
    """The request in a body, or Refused with the field that is wrong."""
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object; wanted the fields of a chat completion", code="invalid_json")
    said = {name: value for name, value in body.items() if value is not None}
    for name, value in said.items():
        if name not in READ and value not in NEUTRAL.get(name, ()):
            raise Refused(
                400,
                f"{name} is not supported here: leave it out. Supported: {', '.join(READ)}",
                param=name,
                code="unsupported_parameter",
            )
    for name in ("model", "messages"):
        if name not in said:
            raise Refused(400, f"{name} is missing", param=name, code="missing_required_parameter")
    stream = flag(said, "stream")
    return Asked(
        model=string(said["model"], "model"),
        turns=turns(said["messages"]),
        stream=stream,
        with_usage=stream and usage_wanted(said.get("stream_options", {})),
        temperature=number(said, "temperature", 0.0, 0.0, 2.0),
        top_p=top_p(said),
        max_tokens=max_tokens(said),
        num=whole(said, "n", 1, MOST_ANSWERS) or 1,
        stop=stops(said.get("stop", [])),
        seed=whole(said, "seed", -(2**63), 2**63 - 1),
        with_logprobs=flag(said, "logprobs"),
        top=top(said),
        schema=schema(said.get("response_format", {"type": "text"})),
    )


def string(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise bad(param, value, "a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(400, f"{param} holds half a character (a lone surrogate)", param=param) from error
    return value


def turns(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise bad("messages", value, "a list of at least one message")
    found = tuple(turn(message, f"messages[{i}]") for i, message in enumerate(value))
    if found[-1].role == "assistant":
        raise Refused(400, "the last message is the assistant's; wanted a message to answer", param="messages")
    return found


def turn(message: Any, param: str) -> Message:
    if not isinstance(message, dict):
        raise bad(param, message, 'an object such as {"role": "user", "content": "…"}')
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise bad(f"{param}.role", role, f"one of {', '.join(ROLES)}")
    others = [n for n, v in message.items() if n not in ("role", "content") and v not in (None, [], "")]
    if others:
        raise Refused(400, f"{param}.{others[0]} is not supported here: leave it out", param=f"{param}.{others[0]}")
    return Message(ROLES[role], content(message.get("content"), f"{param}.content"))


def content(value: Any, param: str) -> str:
    """A text, or the texts of a list of parts."""
    if not isinstance(value, list):
        return string(value, param)
    for i, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise bad(f"{param}[{i}]", part, 'a part {"type": "text", "text": "…"}; this model reads text only')
    return "".join(string(part.get("text"), f"{param}[{i}].text") for i, part in enumerate(value))


def flag(said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name, False)
    if not isinstance(value, bool):
        raise bad(name, value, "true or false")
    return value


def number(said: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = said.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise bad(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def whole(said: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = said.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad(name, value, f"a whole number from {low} to {high}")
    return value


def top_p(said: Mapping[str, Any]) -> float:
    found = number(said, "top_p", 1.0, 0.0, 1.0)
    if found == 0:
        raise bad("top_p", 0, "a number above 0")
    return found


def max_tokens(said: Mapping[str, Any]) -> int | None:
    """Of `max_completion_tokens` or its older name."""
    names = [n for n in ("max_completion_tokens", "max_tokens") if n in said]
    if len(names) == 2 and said[names[0]] != said[names[1]]:
        raise Refused(400, "max_tokens and max_completion_tokens differ; say one of them", param="max_tokens")
    return whole(said, names[0], 1, 1_000_000) if names else None


def stops(value: Any) -> tuple[str, ...]:
    found = tuple(string(s, "stop") for s in (value if isinstance(value, list) else [value]))
    if len(found) > MOST_STOPS or not all(found):
        raise bad("stop", value, f"a text or a list of at most {MOST_STOPS} texts, none of them empty")
    return found


def top(said: Mapping[str, Any]) -> int:
    found = whole(said, "top_logprobs", 0, MOST_TOP) or 0
    if found and not said.get("logprobs"):
        raise Refused(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return found


def schema(said: Any) -> Any:
    """Of response_format; None for any text."""
    kind = said.get("type") if isinstance(said, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = said.get("json_schema") if kind == "json_schema" else None
    if isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
        return inner["schema"]
    wanted = '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": {…}}}'
    raise bad("response_format", said, wanted)


def usage_wanted(options: Any) -> bool:
    if not isinstance(options, dict):
        raise bad("stream_options", options, '{"include_usage": true}')
    unknown = [n for n, v in options.items() if n != "include_usage" and v not in (None, False)]
    if unknown:
        raise Refused(400, f"stream_options.{unknown[0]} is not supported here", param=f"stream_options.{unknown[0]}")
    return flag(options, "include_usage")


def usage(num_prompt: int, num_written: Sequence[int]) -> dict[str, int]:
    """The prompt counts once, whatever `n` is; stop tokens count as written."""
    written = sum(num_written)
    return {"prompt_tokens": num_prompt, "completion_tokens": written, "total_tokens": num_prompt + written}
