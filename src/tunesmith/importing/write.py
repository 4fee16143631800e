"""Another tool's training file to the text of a recipe, with a comment at each key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import RecipeError
from tunesmith.importing.reading import DONE, FATES, Key, Reading, flat, shown
from tunesmith.importing.tools import TOOLS, detect
from tunesmith.importing.translate import translate
from tunesmith.plain_yaml import load_yaml
from tunesmith.recipe import known_keys, parse, place, where_of

LISTED = ("value", "absent", "unknown")  # what the recipe's own comments end with
COMMENT_CHARS = 150  # of one comment, past which it is cut


@dataclass(frozen=True, slots=True)
class Imported:
    """`settings` parse as a recipe; `text` is the same with comments."""

    tool: str  # one of TOOLS
    settings: dict[str, Any]
    text: str
    keys: tuple[Key, ...]  # every key of the file, in its order

    def facts(self) -> dict[str, Any]:
        return {"tool": self.tool, "recipe": self.settings, "keys": [asdict(k) for k in self.keys]}

    def by_fate(self) -> dict[str, list[Key]]:
        """The keys under each heading, in the order of FATES."""
        return {fate: [k for k in self.keys if k.fate == fate] for fate in FATES}


def read(path: Path, tool: str | None = None) -> Imported:
    """The recipe that a file of another tool makes. Raises RecipeError where it is none, or for another job."""
    if tool is not None and tool not in TOOLS:
        raise RecipeError(f"--from {tool}: known tools are {', '.join(TOOLS)}")
    said = dict(flat(load(path)))
    tool = tool or detect(said, str(path))
    reading = Reading(TOOLS[tool].shown, said)
    translate(reading, TOOLS[tool])
    assert not reading.rest(), reading.rest()
    order = [k for k in known_keys() if k in reading.settings]
    assert set(order) == set(reading.settings), sorted(set(reading.settings) - set(order))
    settings: dict[str, Any] = {}
    for key in order:
        place(settings, key, reading.settings[key])
    parse(settings)
    keys = tuple(reading.fates[key] for key in said)
    return Imported(tool, settings, recipe_text(path, reading, settings, keys), keys)


def load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(
            f"{path} is not there; wanted a training file of {', '.join(t.shown for t in TOOLS.values())}"
        )
    try:
        found = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML or JSON: {where_of(error)}") from error
    if not isinstance(found, dict):
        raise RecipeError(
            f"{path} holds {'nothing' if found is None else shown(found)}; wanted keys and values of a training file"
        )
    return {str(k): v for k, v in found.items()}


def recipe_text(path: Path, reading: Reading, settings: dict[str, Any], keys: tuple[Key, ...]) -> str:
    """YAML, each key under the comment that says where it is from; what was not translated stands at the end."""
    head = [
        f"# Made from {path.name} ({reading.tool}) by tunesmith import. Check it with `tunesmith plan`.",
        "# A tenth of the rows is held out for the verdict (data.test_frac), unless data.test names a file.",
        "",
    ]
    return "\n".join([*head, *lines(settings, reading.comments), *left_over(keys), ""])


def lines(settings: dict[str, Any], comments: dict[str, str], prefix: str = "", indent: str = "") -> list[str]:
    found: list[str] = []
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            found += [f"{indent}{name}:", *lines(value, comments, f"{key}.", f"{indent}  ")]
            continue
        if comments.get(key):
            found.append(f"{indent}# {shown(comments[key], COMMENT_CHARS)}")
        dumped = yaml.safe_dump([value], allow_unicode=True, default_flow_style=True, width=100_000)
        found.append(f"{indent}{name}: {dumped.strip()[1:-1]}")  # on one line, whatever it holds
    return found


def left_over(keys: tuple[Key, ...]) -> list[str]:
    found: list[str] = []
    for fate in LISTED:
        rows = [f"#   {k.key}: {shown(k.value, 40)}  ({k.why})" for k in keys if k.fate == fate]
        found += ["", f"# {FATES[fate]}:", *rows] if rows else []
    return found


def num_translated(keys: tuple[Key, ...]) -> int:
    return sum(k.fate in DONE for k in keys)
