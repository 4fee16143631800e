"""A template of a prompt: text with {column} in it, such as "Subject: {subject}\\n{body}".

Values are put in as they are and are never read as a template, so a value that holds braces stays what it is. `{{` and
`}}` are braces of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from tunesmith.errors import DataError

PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]|[^{}]+")


def is_template(text: str) -> bool:
    """Whether it is a template rather than the name of a column."""
    return "{" in text or "}" in text


@lru_cache(maxsize=64)
def pieces(template: str) -> tuple[tuple[str, bool], ...]:
    """(text, is_column) in order. DataError at a brace that belongs to no placeholder."""
    found = []
    for match in PIECE.finditer(template):
        text = match.group()
        if text in ("{", "}"):
            raise DataError(
                f"the template {template!r} has a {text!r} of its own at character {match.start() + 1}. Write {{{{ and "
                "}} for braces, and {name} for the column name."
            )
        name = match.group(1)
        found.append((name.strip(), True) if name else ({"{{": "{", "}}": "}"}.get(text, text), False))
    return tuple(found)


def names_in(text: str) -> tuple[str, ...]:
    """The columns that a template, or a plain name, reads."""
    if not is_template(text):
        return (text,)
    return tuple(dict.fromkeys(name for name, is_column in pieces(text) if is_column))


def fill(template: str, value_of: Callable[[str], str]) -> str:
    """The template with the value of each column in its place."""
    return "".join(value_of(text) if is_column else text for text, is_column in pieces(template))
