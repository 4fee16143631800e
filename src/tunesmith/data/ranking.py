"""Several replies to one prompt in the order in which somebody prefers them: lists with scores or ranks, or best
first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.rows import parse_json
from tunesmith.data.turns import as_text, number
from tunesmith.types import Message, Pair, Ranked

LISTS = ("completions", "responses", "answers", "replies", "outputs", "candidates")  # with scores or ranks
BEST_FIRST = ("ranking", "ranked")
TEXTS = ("text", "response", "answer", "completion", "output", "reply", "content")
SCORES = ("score", "overall_score", "rating", "reward", "scores", "ratings", "rewards")  # more is better
RANKS = ("rank", "ranks", "position")  # 1 is the best


@dataclass(slots=True)
class Tally:
    """What the lists of a file hold, for people."""

    num_lists: int = 0
    num_pairs: int = 0
    num_tied: int = 0  # replies that were left out

    def add(self, target: Pair | Ranked, num_given: int) -> None:
        num = len(target.replies)
        self.num_lists += 1
        self.num_pairs += num * (num - 1) // 2
        self.num_tied += num_given - num

    def notes(self) -> list[str]:
        if not self.num_lists:
            return []
        said = (
            f"{self.num_lists} lists of replies hold {self.num_pairs} pairs, {self.num_pairs / self.num_lists:.1f} each"
        )
        said += "; a list counts as one example, whatever its length"
        tied = f"{self.num_tied} replies that tie with another one of their list, or repeat it, were left out"
        return [f"{said}. {tied}" if self.num_tied else said]


def columns_of(known: Mapping[str, str], sample: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """{"ranked", "scores"} by names and by what the rows hold; None where there is no such list."""
    for name in (name for name in LISTS if name in known):
        lists = [found for row in sample if (found := as_list(row.get(known[name])))]
        if lists and all(isinstance(item, Mapping) and key_in(item, (*SCORES, *RANKS)) for item in lists[0]):
            return {"ranked": known[name]}
        beside = next((known[s] for s in (*SCORES, *RANKS, *BEST_FIRST) if s in known), None)
        if lists and beside is not None and any(as_list(row.get(beside)) for row in sample):
            return {"ranked": known[name], "scores": beside}
    for name in (name for name in BEST_FIRST if name in known):
        lists = [found for row in sample if (found := as_list(row.get(known[name])))]
        if lists and all(isinstance(item, str) for item in lists[0]):
            return {"ranked": known[name]}
    return None


def as_list(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []


def key_in(item: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if item.get(name) is not None), None)


def ranked(value: Any, name: str, scores: Any, scores_name: str | None) -> Pair | Ranked:
    """The replies, best first; of those that tie, or are the same, the first. ValueError where fewer than two stay."""
    items = as_list(value)
    if not items:
        raise ValueError(f"the column '{name}' is no list of replies")
    texts = [as_text(text_of(item, name), name) for item in items]
    order = order_of(items, name) if scores_name is None else beside(as_list(scores), len(items), scores_name)
    best: dict[float, str] = {}
    for place, text in sorted(zip(order, texts), key=lambda both: both[0]):
        if text.strip() and text.strip() not in map(str.strip, best.values()):
            best.setdefault(place, text)
    replies = tuple(Message("assistant", text) for text in best.values())
    if len(replies) < 2:
        raise ValueError(f"the column '{name}' holds no two replies of which one is better")
    return Pair(*replies) if len(replies) == 2 else Ranked(replies)


def text_of(item: Any, name: str) -> Any:
    if not isinstance(item, Mapping):
        return item
    key = key_in(item, TEXTS)
    if key is None:
        raise ValueError(f"a reply of '{name}' has no text: wanted one of the fields {', '.join(TEXTS)}")
    return item[key]


def order_of(items: Sequence[Any], name: str) -> list[float]:
    """Of each item a number, the least of the best."""
    if not any(isinstance(item, Mapping) for item in items):
        return [float(at) for at in range(len(items))]
    found = []
    for item in items:
        key = key_in(item, (*SCORES, *RANKS)) if isinstance(item, Mapping) else None
        if key is None:
            raise ValueError(f"a reply of '{name}' has neither a score nor a rank ({', '.join((*SCORES, *RANKS))})")
        found.append(number(item[key], f"the {key} of a reply") if key in RANKS else -signed(item[key], key))
    return found


def beside(values: Sequence[Any], num: int, name: str) -> list[float]:
    """The same from a list of its own."""
    if len(values) != num:
        raise ValueError(f"'{name}' holds {len(values)} numbers, and there are {num} replies")
    found = [signed(value, name) for value in values]
    return found if name.strip().lower() in (*RANKS, *BEST_FIRST) else [-value for value in found]


def signed(value: Any, name: str) -> float:
    """A score, which may be below 0."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name!r} of a reply is {value!r}, wanted a number")
    return found
