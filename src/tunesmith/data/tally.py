"""Counting the rows of a finding while they go by."""

from __future__ import annotations

from dataclasses import dataclass, field

from tunesmith.data.finding import SHOWN, Row, excerpt
from tunesmith.types import Example

MOST_VALUES = 10_000


@dataclass(slots=True)
class Tally:
    """How many, and the first of them."""

    count: int = 0
    rows: list[Row] = field(default_factory=list)
    values: set[bytes] = field(default_factory=set)  # digests of what was found, at most MOST_VALUES
    every: list[str] | None = None  # file:line of all of them, where somebody wants to drop them

    def add(self, example: Example, text: str, at: int = 0, note: str = "") -> None:
        self.count += 1
        if self.every is not None:
            self.every.append(example.source)
        if len(self.rows) < SHOWN:
            self.rows.append(Row(example.source, excerpt(text, at), note))
