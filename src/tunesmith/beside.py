"""Files that a recipe names and that lie next to it: metrics and rewards of one's own, schemas, graders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

KEYS = (("task", "metric"), ("evals", "schema"), ("environment", "file"))  # group, key
OF_REWARDS = ("file", "schema", "grader")


def beside(settings: Any, folder: Path) -> None:
    """What is not found from here is looked for in the recipe's folder; the settings are changed in place."""
    if not isinstance(settings, dict):
        return
    for group, key in KEYS:
        part = settings.get(group)
        if isinstance(part, dict) and key in part:
            part[key] = found(part[key], folder)
    rewards(settings.get("reward"), folder)


def rewards(parts: Any, folder: Path) -> None:
    for part in [parts] if isinstance(parts, dict) else parts if isinstance(parts, list) else []:
        if isinstance(part, dict):
            part |= {key: found(part[key], folder) for key in OF_REWARDS if key in part}
            rewards(part.get("parts"), folder)


def found(said: Any, folder: Path) -> Any:
    """One name, or several in a list; what is no name is left as it is."""
    if isinstance(said, list):
        return [found(one, folder) for one in said]
    if not isinstance(said, str):
        return said
    file, colon, name = said.rpartition(":") if ".py:" in said else (said, "", "")
    is_beside = not Path(file).exists() and (folder / file).is_file()
    return f"{folder / file}{colon}{name}" if is_beside else said
