"""Rows that only a person can judge: with toxic words, in a language that is not usual, nearly like others, with a
label that is likely wrong, or with a reply that was cut. They are told, and dropped where their kind is named
(`tunesmith audit --fix FOLDER --drop KIND`); of a sentence that many replies share the sentence is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data import languages, toxic
from tunesmith.data.finding import Finding
from tunesmith.data.progress import Step, counted, untold
from tunesmith.data.remedies import ROWS, SENTENCES
from tunesmith.data.tally import Tally
from tunesmith.types import Example

SHOWN = 8  # languages of a side, in a line


@dataclass(slots=True)
class Doubts:
    """Who judges, and what was found. None: nobody, which is told."""

    reader: toxic.Reader | None = field(default_factory=toxic.reader)
    identify: languages.Identify | None = field(default_factory=languages.identifier)
    drop: Sequence[str] = ()  # of ROWS and SENTENCES
    dropped: dict[str, str] = field(default_factory=dict)  # file:line -> why, of rows of these kinds
    cut: dict[str, set[str]] = field(default_factory=dict)  # file:line -> the ends of its reply that lose a sentence
    shares: dict[str, dict[str, int]] = field(default_factory=dict)  # prompts, replies -> language -> rows
    not_looked_for: list[str] = field(default_factory=list)

    def findings(self, examples: Sequence[Example], step: Step = untold) -> list[Finding]:
        num = len(examples)
        tallies: dict[str, Tally] = {}
        found: list[Finding] = []
        if self.reader is None:
            self.not_looked_for.append(toxic.NO_LIBRARY)
        else:
            told = toxic.told(counted(examples, num, "rows read for toxic words", step), self.reader)
            self._see((one for one in told if self._is_read(one[2])), tallies)
            found += toxic.findings(tallies, num)
        if self.identify is None:
            self.not_looked_for.append(languages.NO_LIBRARY)
        else:
            seen = languages.languages(counted(examples, num, "rows read for their language", step), self.identify)
            self.shares = seen.shares()
            self._see(languages.odd(counted(examples, num, "rows read in other languages", step), seen), tallies)
            found += languages.findings(seen, tallies)
        return found

    def _is_read(self, text: str) -> bool:
        """Whether the one who says what is toxic knows the language, or nobody can say which it is."""
        if self.reader is None or not self.reader.languages or self.identify is None:
            return True
        return (self.identify(text) or "en") in self.reader.languages

    def _see(self, told: Iterator[tuple[str, Example, str, int, str]], tallies: dict[str, Tally]) -> None:
        for kind, example, text, at, note in told:
            tallies.setdefault(kind, Tally()).add(example, text, at, note)
            if kind in self.drop:
                self.dropped.setdefault(example.source, f"{ROWS[kind]} ({note})")

    def listed(self, findings: Sequence[Finding]) -> None:
        """Findings that were made elsewhere, and know all of their rows."""
        for one in findings:
            if one.kind in self.drop and one.every is not None:
                for source in one.every():
                    if one.kind in SENTENCES:
                        self.cut.setdefault(source, set()).add(SENTENCES[one.kind])
                    else:
                        self.dropped.setdefault(source, ROWS[one.kind])

    def facts(self) -> dict[str, Any]:
        """For audit.json."""
        return {"languages": self.shares, "not_looked_for": self.not_looked_for}


def lines(found: dict[str, Any]) -> list[str]:
    """The languages of prompts and replies in shares, the most first, and what was not looked for."""
    said = []
    for side, counts in found["languages"].items():
        total, unknown = sum(counts.values()), counts.get(languages.NOT_KNOWN, 0)
        known = [(name, num) for name, num in counts.items() if name != languages.NOT_KNOWN]
        parts = [f"{name} {percent(num, total)}" for name, num in known[:SHOWN]]
        if len(known) > SHOWN:
            parts.append(f"{len(known) - SHOWN} more {percent(sum(num for _, num in known[SHOWN:]), total)}")
        parts += [f"too short or unclear to say {percent(unknown, total)}"] * bool(unknown)
        said.append(f"languages  of {side}: {', '.join(parts)}")
    return said + [f"not done   {sentence}" for sentence in found["not_looked_for"]]


def percent(num: int, of: int) -> str:
    return f"{num / of:.1%}" if num >= 0.001 * of else "under 0.1%"
