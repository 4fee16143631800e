"""YAML from anywhere: plain values, and not more of them than a recipe could mean."""

from __future__ import annotations

from typing import Any

import yaml

MAX_VALUES, MAX_DEPTH = 100_000, 100  # aliases written out


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value. Raises yaml.YAMLError, whatever is wrong with the text."""
    try:
        check(text, loader)
        return yaml.load(text, loader)
    except (ValueError, OverflowError, RecursionError) as error:  # a 13th month, a number of 5000 digits
        raise yaml.YAMLError(f"holds a value that cannot be: {error}") from error


def check(text: str, loader: type[yaml.SafeLoader]) -> None:
    """YAMLError where aliases of aliases, or merges of merges, would grow without end; nothing is made of them."""
    sizes: dict[str, int] = {}
    around: list[tuple[str | None, int]] = []  # anchor, and size so far, of each list or mapping that is open
    for event in yaml.parse(text, loader):
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            around.append((event.anchor, 1))
            if len(around) > MAX_DEPTH:
                raise yaml.YAMLError(f"is nested more than {MAX_DEPTH} deep")
            continue
        anchor, size = size_of(event, sizes, around)
        if anchor:
            sizes[anchor] = size
        if around:
            around[-1] = (around[-1][0], around[-1][1] + size)
        if size > MAX_VALUES or (around and around[-1][1] > MAX_VALUES):
            raise yaml.YAMLError(f"holds more than {MAX_VALUES} values, aliases written out")


def size_of(event: Any, sizes: dict[str, int], around: list[tuple[str | None, int]]) -> tuple[str | None, int]:
    """(anchor, values) of what has just ended."""
    if isinstance(event, yaml.AliasEvent):
        return None, sizes.get(str(event.anchor), MAX_VALUES + 1)  # not ended yet: it stands inside itself
    if isinstance(event, yaml.ScalarEvent):
        return event.anchor, 1
    if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
        return around.pop()
    return None, 0
