"""docs/recipe.md has every key of a recipe, with its default and with the words that stand beside it in the code."""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any

import yaml
from tests.house.source import ROOT

from tunesmith.recipe import Recipe, known_keys, parts_of
from tunesmith.schema import descriptions

PAGE = ROOT / "docs" / "recipe.md"
ROW = re.compile(r"^\| `([a-z_.0-9]+)` \|.*$", re.M)


def default_of(key: str) -> str:
    value: Any = Recipe()
    for name in key.split("."):
        value = getattr(value, name)
    assert not dataclasses.is_dataclass(value)
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("...").strip()
    return text.replace("|", "\\|")


def choices_of(key: str) -> list[str]:
    """The words that the key may be, where these are a closed set."""
    hint: Any = Recipe
    for name in key.split("."):
        hint = parts_of(hint)[name]
    found, left = [], [hint]
    while left:
        kind = left.pop(0)
        is_choice = typing.get_origin(kind) is typing.Literal
        found += [str(word) for word in typing.get_args(kind)] if is_choice else []
        left += [] if is_choice else typing.get_args(kind)
    return found


def wanted() -> dict[str, str]:
    words, rows = descriptions(), {}
    for key in known_keys():
        choices = "".join(f", `{word}`" for word in choices_of(key)).removeprefix(", ")
        text = words[key].replace("|", "\\|") + (f" ({choices})" if choices else "")
        rows[key] = f"| `{key}` | `{default_of(key)}` | {text} |"
    return rows


def test_every_key_of_a_recipe_stands_in_its_page() -> None:
    rows = {match[1]: match[0] for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))}
    changed = [row for key, row in wanted().items() if rows.get(key) != row]
    assert changed == [], "put these rows into the table of docs/recipe.md:\n" + "\n".join(changed)
    assert list(rows) == list(wanted()), "the table of docs/recipe.md has other rows, or another order"
