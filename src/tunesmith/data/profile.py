"""What stands in the columns of a file: how many values, how long, how often the same. `tunesmith init` goes by it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.rows import Reading, Rejected, Row, rows
from tunesmith.errors import DataError, did_you_mean

MOST_ROWS = 20_000  # looked at; a profile needs no more
KEPT_CHARS = 200  # of a value, by which values are told apart
MOST_LABELS = 150
RARE = 5  # a label with fewer rows is hardly learned, and hardly measured


@dataclass(frozen=True, slots=True)
class Column:
    """`filled` rows of the file have a value, of which `distinct` are different."""

    name: str
    filled: int
    distinct: int
    mean_chars: float
    spaced_frac: float  # of the values that have a space within
    number_frac: float  # of the values that are numbers
    nested: bool  # lists or objects
    counts: tuple[tuple[str, int], ...]  # the values, the most frequent first; at most MOST_LABELS + 1
    example: str

    @property
    def is_text(self) -> bool:
        """Texts that a person wrote."""
        return not self.nested and self.spaced_frac > 0.5 and self.mean_chars >= 12 and not self.is_label

    @property
    def is_label(self) -> bool:
        """A few names, each of several rows."""
        few = 2 <= self.distinct <= MOST_LABELS and self.distinct * 4 <= self.filled
        return few and self.mean_chars <= 60 and not self.nested and not self.is_amount

    @property
    def is_amount(self) -> bool:
        """A measured number rather than a class: many values, or fractions."""
        fractions = any("." in value for value, _ in self.counts[:20])
        return self.number_frac > 0.95 and (self.distinct > 20 or (fractions and self.distinct > 7))

    @property
    def is_id(self) -> bool:
        """A different short value in nearly every row."""
        return (
            not self.nested and self.distinct >= 0.95 * max(1, self.filled) and self.spaced_frac < 0.3
            and self.mean_chars <= 48
        )  # fmt: skip

    @property
    def repeats(self) -> bool:
        """Short values that come back, many of them: customers, documents, threads."""
        return (
            not self.nested and 20 <= self.distinct <= 0.8 * self.filled and self.mean_chars <= 60
        )  # fmt: skip

    @property
    def words(self) -> str:
        """One line for a person."""
        shown = self.example if len(self.example) <= 40 else self.example[:39] + "…"
        if self.nested:
            return "lists or objects"
        if self.is_id:
            return f"a different short value in nearly every row, such as {shown!r}"
        if self.is_text:
            return f"texts of about {self.mean_chars:.0f} characters, such as {shown!r}"
        return f"{self.distinct} different values, such as {shown!r}"


@dataclass(frozen=True, slots=True)
class Table:
    """The first rows of a file."""

    columns: dict[str, Column]
    sample: tuple[Row, ...]  # the first 200
    num_rows: int  # looked at

    def __getitem__(self, name: str) -> Column:
        if name not in self.columns:
            raise DataError(self.lacks(name))
        return self.columns[name]

    def lacks(self, name: str) -> str:
        near = did_you_mean(name, self.columns)
        return f"there is no column {name!r}; the file has: {', '.join(self.columns)}. Name one of these.{near}"


def look(paths: Sequence[Path], reading: Reading | None = None) -> Table:
    """The columns of all files together, from their first MOST_ROWS rows. Bad rows are left to `ingest`."""
    found: list[Row] = []
    for path in paths:
        for item in rows(path, reading):
            if len(found) >= MOST_ROWS:
                break
            if not isinstance(item, Rejected):
                found.append(item[1])
    names = dict.fromkeys(name for row in found for name in row)
    return Table({n: column(n, (row.get(n) for row in found)) for n in names}, tuple(found[:200]), len(found))


def column(name: str, values: Iterable[Any]) -> Column:
    counts: Counter[str] = Counter()
    chars = spaced = numbers = filled = nested = 0
    for value in values:
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        filled += 1
        nested += is_nested(value)
        text = value.strip() if isinstance(value, str) else str(value)
        counts[text[:KEPT_CHARS]] += 1
        chars += len(text)
        spaced += " " in text
        numbers += is_number(text)
    most = max(1, filled)
    common = tuple(counts.most_common(MOST_LABELS + 1))
    example = " ".join(common[0][0].split()) if common else ""
    return Column(
        name, filled, len(counts), chars / most, spaced / most, numbers / most, nested > most / 2, common, example
    )


def is_nested(value: Any) -> bool:
    """A list or an object, or the JSON of one, as CSV holds it."""
    if isinstance(value, (list, dict)):
        return True
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(value), list)
    except ValueError:
        return False


def is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def rare(counts: Sequence[tuple[str, int]]) -> list[str]:
    """Labels with fewer than RARE rows."""
    return [value for value, num in counts if num < RARE]


def doubles(counts: Sequence[tuple[str, int]]) -> list[tuple[str, ...]]:
    """Labels that differ only in capitals or spaces."""
    same: dict[str, list[str]] = {}
    for value, _ in counts:
        same.setdefault(" ".join(value.lower().replace("_", " ").split()), []).append(value)
    return [tuple(sorted(values)) for values in same.values() if len(values) > 1]
