"""One part of a reward, and what every part reads of an attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.evals.text import as_text
from tunesmith.types import Attempt, Grade, Label, Reply, Task

Graded = Callable[[Sequence[Attempt]], list[Grade]]


class Ungradable(Exception):
    """This reply cannot be graded; the text says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A reward whose least and most value are known. What cannot be graded has the least."""

    name: str
    low: float
    high: float
    grade: Graded
    inner: tuple[Part, ...] = ()  # what a sum or a formula is made of

    def ends(self, prefix: str = "") -> dict[str, tuple[float, float]]:
        """Least and most of each part in it, by the names that grades give them."""
        found = {}
        for part in self.inner:
            found[f"{prefix}{part.name}"] = (part.low, part.high)
            found |= part.ends(f"{prefix}{part.name}.")
        return found


def each(case: Callable[[Attempt], float], low: float = 0.0) -> Graded:
    """Grades of one attempt after the other."""

    def grade(attempts: Sequence[Attempt]) -> list[Grade]:
        return [one(case, attempt, low) for attempt in attempts]

    return grade


def one(case: Callable[[Attempt], float], attempt: Attempt, low: float) -> Grade:
    try:
        return Grade(float(case(attempt)))
    except Ungradable as error:
        return Grade(low, why=str(error), is_graded=False)


def facts_of(attempt: Attempt) -> Mapping[str, Any]:
    """What a grader is told of the example; of one with a reply in the data, that reply as `reference`."""
    target = attempt.example.target
    if isinstance(target, Task):
        return target.facts
    if isinstance(target, (Reply, Label)):
        return {"reference": target.text}
    raise DataError(
        f"{attempt.example.source or attempt.example.id}: a row of pairs or marks has nothing to grade a new reply "
        "with; wanted facts (data.columns.facts) or a reply"
    )


def fact(attempt: Attempt, name: str) -> Any:
    facts = facts_of(attempt)
    if name not in facts:
        raise DataError(
            f"{attempt.example.source or attempt.example.id}: there is no fact {name!r} to grade with; the row has: "
            f"{', '.join(facts)}. Name one of these, or add the column to data.columns.facts"
        )
    return facts[name]


def reference(attempt: Attempt, name: str) -> str:
    """The fact of that name as text; "" is the only one, or the one called reference."""
    facts = facts_of(attempt)
    if not name and len(facts) == 1:
        [name] = facts
    if not name and "reference" not in facts:
        raise DataError(
            f"{attempt.example.source or attempt.example.id}: the row has the facts {', '.join(facts)}; say which one "
            "the reply is held against: reference: NAME"
        )
    return as_text(fact(attempt, name or "reference"))


def prompt_text(attempt: Attempt) -> str:
    """What a user's function is told of the prompt: of one turn its text, of several each with its role."""
    turns = [m for m in attempt.example.prompt if m.role not in ("system", "developer")]
    return turns[0].content if len(turns) == 1 else "\n\n".join(f"{m.role}: {m.content}" for m in turns)
