"""What a report says of rows that a model wrote: their share, and the verdict with and without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.report import words
from tunesmith.report.facts import Facts

SYNTHETIC_HEAD = ("Learned from", "Run", "Base", "Tuned", "Difference", "Interval", "Decision")
WITH, WITHOUT = "all rows", "without synthetic rows"


@dataclass(frozen=True, slots=True)
class Synthetic:
    said: str
    rows: tuple[tuple[str, ...], ...]  # under SYNTHETIC_HEAD


def synthetic_of(facts: Facts) -> Synthetic | None:
    """None where neither this run nor one beside it could learn from such rows, or where there is no verdict yet."""
    found = (facts.audit or {}).get("synthetic") or {}
    if facts.verdict is None or (not found.get("count") and facts.without is None):
        return None
    said = (
        f"{found['count']} of the training rows ({found['share']:.0%}) were written by a model; no case is."
        if found.get("count")
        else "No row that was learned from was written by a model."
    )
    if facts.without is None:
        said += " What they bring shows the same recipe with --set data.synthetic=false, in a folder beside this one."
    both = [(facts.name, facts.uses_synthetic, facts.verdict)]
    both += [] if facts.without is None else [(facts.without[0], not facts.uses_synthetic, facts.without[1])]
    return Synthetic(said, tuple(row_of(*one) for one in sorted(both, key=lambda one: not one[1])))


def row_of(name: str, with_them: bool, verdict: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        WITH if with_them else WITHOUT, name, words.number(verdict["base"]), words.number(verdict["tuned"]),
        words.signed(verdict["effect"]), words.interval(verdict["interval"], with_sign=True), str(verdict["decision"]),
    )  # fmt: skip
