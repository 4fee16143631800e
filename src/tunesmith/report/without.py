"""A run beside this one whose recipe differs in one thing alone: whether it learned from rows that a model wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.plain_yaml import load_yaml


def uses(recipe: Any) -> bool:
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    return not isinstance(data, Mapping) or data.get("synthetic", True) is not False


def but_for_it(recipe: Any) -> Any:
    """The recipe without data.synthetic."""
    if not isinstance(recipe, Mapping) or not isinstance(recipe.get("data"), Mapping):
        return recipe
    return {**recipe, "data": {k: v for k, v in recipe["data"].items() if k != "synthetic"}}


def recipe_in(folder: Path, word: str = "") -> Any:
    """None where there is none that can be read, or none with the word in its text."""
    try:
        text = (folder / "recipe.yaml").read_text(encoding="utf-8")
        return load_yaml(text) if word in text else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None  # a report of this run does not end because another folder beside it is broken


def other_of(folder: Path) -> Path | None:
    """A finished run beside this one whose recipe differs in data.synthetic alone; the newest of several."""
    mine = recipe_in(folder)
    if mine is None:
        return None
    word = "synthetic" if uses(mine) else ""  # a recipe without it uses them too, and there may be hundreds beside it
    there = [
        path for path in folder.resolve().parent.iterdir()
        if path != folder.resolve() and (path / "verdict.json").is_file()
        and (found := recipe_in(path, word)) is not None and uses(found) != uses(mine)
        and but_for_it(found) == but_for_it(mine)
    ]  # fmt: skip
    return max(there, key=lambda p: (p / "verdict.json").stat().st_mtime, default=None)
