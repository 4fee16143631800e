"""The part of Go's text/template that an Ollama TEMPLATE of ours uses, so that what is written can be rendered here.

Actions: `{{ .Path }}`, `{{ "text" }}`, if / else if / else / end, range $i, $_ := .Messages.
Functions: eq, lt, and, len, slice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

ACTION = re.compile(r"\{\{(-?) (.*?) (-?)\}\}", re.DOTALL)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')


def literal(text: str) -> str:
    """Text as it stands in a template; what Go would read as an action is quoted."""
    return text.replace("{{", '{{ "{{" }}')


def render(template: str, data: dict[str, Any]) -> str:
    """The template with `data` as its dot. AssertionError where it holds something that is not known here."""
    parts: list[tuple[str, str]] = []
    at = 0
    for match in ACTION.finditer(template):
        parts += [("text", template[at : match.start()]), ("do", match[2])]
        assert (match[1], match[3]) == ("", ""), "trim marks are not used"
        at = match.end()
    parts.append(("text", template[at:]))
    text, end = _block(parts, 0, data, {"$": data}, runs=True)
    assert end == len(parts), "an end too many"
    return text


def _block(
    parts: Sequence[tuple[str, str]], at: int, dot: Any, names: dict[str, Any], *, runs: bool
) -> tuple[str, int]:
    """(text, index) up to the else or end that closes this block, or the end of the template."""
    out: list[str] = []
    while at < len(parts):
        kind, body = parts[at]
        word = body.split(" ", 1)[0]
        if kind == "do" and word in ("else", "end"):
            break
        if kind == "do" and word in ("if", "range"):
            text, at = (_branch if word == "if" else _range)(parts, at, dot, names, runs=runs)
        else:
            text = body if kind == "text" else str(_value(body, dot, names)) if runs else ""
        out += [text] if runs else []
        at += 1
    return "".join(out), at


def _branch(
    parts: Sequence[tuple[str, str]], at: int, dot: Any, names: dict[str, Any], *, runs: bool
) -> tuple[str, int]:
    """An if with all that belongs to it; index of its end."""
    open_still, out = runs, ""
    condition = parts[at][1].removeprefix("if ")
    while True:
        chosen = open_still and (condition == "else" or bool(_value(condition, dot, names)))
        text, at = _block(parts, at + 1, dot, names, runs=chosen)
        out, open_still = out + text, open_still and not chosen
        assert at < len(parts), "an if without an end"
        if parts[at][1] == "end":
            return out, at
        condition = parts[at][1].removeprefix("else if ")


def _range(
    parts: Sequence[tuple[str, str]], at: int, dot: Any, names: dict[str, Any], *, runs: bool
) -> tuple[str, int]:
    match = re.fullmatch(r"range (\$\w+), \$_ := (\S+)", parts[at][1])
    assert match is not None, parts[at][1]
    _, end = _block(parts, at + 1, dot, names, runs=False)
    items = _value(match[2], dot, names) if runs else []
    return "".join(
        _block(parts, at + 1, item, {**names, match[1]: i}, runs=True)[0] for i, item in enumerate(items)
    ), end


def _value(text: str, dot: Any, names: dict[str, Any]) -> Any:
    words = WORD.findall(text)
    value, rest = _call(words, dot, names)
    assert not rest, text
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda a, b: a == b,
    "lt": lambda a, b: a < b,
    "and": lambda a, b: b if a else a,
    "len": len,
    "slice": lambda items, start: items[start:],
}


def _call(words: list[str], dot: Any, names: dict[str, Any]) -> tuple[Any, list[str]]:
    """A function with its arguments, or one operand."""
    if words[0] not in FUNCTIONS:
        return _operand(words, dot, names)
    arguments, rest = [], words[1:]
    while rest and rest[0] != ")":
        argument, rest = _operand(rest, dot, names)
        arguments.append(argument)
    return FUNCTIONS[words[0]](*arguments), rest


def _operand(words: list[str], dot: Any, names: dict[str, Any]) -> tuple[Any, list[str]]:
    word, rest = words[0], words[1:]
    if word == "(":
        value, rest = _call(rest, dot, names)
        assert rest[0] == ")", words
        return value, rest[1:]
    if word.startswith('"'):
        return word[1:-1], rest
    if word.isdigit():
        return int(word), rest
    root, _, path = word.partition(".")
    value = names[root] if root else dot
    for key in filter(None, path.split(".")):
        value = value[key]
    return value, rest
