"""The other tool's file while it is read: what it said, what became of each key, what the recipe will say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tunesmith.spellings import THEIRS

# what can become of a key -> the heading under which it is listed
FATES = {
    "meant": "translated, with another meaning here",
    "value": "not translated: this value has no equivalent here",
    "absent": "not translated: there is no equivalent here yet",
    "unknown": "not translated: not a key that is known here, see whether you need it",
    "needless": "not needed here",
    "off": "not used there, so nothing to translate",
    "same": "translated as it is",
}
DONE = ("same", "meant")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the other tool's file, dotted, and what became of it."""

    key: str
    value: Any
    fate: str  # one of FATES
    ours: str  # dotted key of the recipe, or an option of the command line; "" = none
    why: str


@dataclass(slots=True)
class Reading:
    tool: str  # as people write it: Axolotl
    said: dict[str, Any]  # dotted key -> value, lists of mappings with their number: datasets[0].path
    settings: dict[str, Any] = field(default_factory=dict)  # our dotted key -> value
    comments: dict[str, str] = field(default_factory=dict)  # our dotted key -> where it is from
    fates: dict[str, Key] = field(default_factory=dict)

    def names(self, ours: str) -> list[str]:
        """Their keys for one of ours that the file says with a value."""
        return [name for name in THEIRS[ours] if self.said.get(name) is not None]

    def put(self, ours: str, value: Any, *keys: str, meant: str = "") -> None:
        """The recipe says `value`, because the file says `keys`. `meant`: what is different here."""
        self.settings[ours] = value
        self.comments[ours] = ", ".join(f"{k}: {shown(self.said[k])}" for k in keys)
        if meant:
            self.comments[ours] += f"; {meant}"
        for key in keys:
            self.fates[key] = Key(key, self.said[key], "meant" if meant else "same", ours, meant)

    def leave(self, fate: str, why: str, *keys: str, ours: str = "") -> None:
        for key in keys:
            self.fates[key] = Key(key, self.said[key], fate, ours, why)

    def rest(self) -> list[str]:
        return [key for key in self.said if key not in self.fates]


def shown(value: Any, most: int = 60) -> str:
    """A value on one short line."""
    text = "true" if value is True else "false" if value is False else " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 2]} …"


def flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, in the order of the file. Mappings inside lists are numbered."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from flat(value, f"{key}.")
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            for number, inner in enumerate(value):
                yield from flat(inner if isinstance(inner, dict) else {"": inner}, f"{key}[{number}].")
        else:
            yield key, value


def number(value: Any) -> float | None:
    """A number, also where YAML 1.1 leaves it a text (2e-5); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def is_off(value: Any) -> bool:
    """Says that something is not used."""
    return value is None or value is False or value in ("", "none", "None", "no", "false", [], {}) or value == 0
