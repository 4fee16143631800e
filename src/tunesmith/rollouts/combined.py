"""Parts made of parts: the weighted sum, and a formula over the values of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.errors import DataError
from tunesmith.rollouts import kinds
from tunesmith.rollouts.formula import Formula, NoValue
from tunesmith.rollouts.matches import size
from tunesmith.rollouts.parts import Part, facts_of
from tunesmith.types import Attempt, Grade

OF_ATTEMPTS = ("num_tokens", "num_words", "num_chars", "stopped")  # what a formula may name beside facts and parts


def clipped(part: Part, clip: kinds.Range | None) -> Part:
    """The same part with its values cut to [least, most]."""
    if clip is None:
        return part
    low, high = clip

    def cut(value: float) -> float:
        return min(high, max(low, value))

    def grade(attempts: Sequence[Attempt]) -> list[Grade]:
        return [replace(found, value=cut(found.value)) for found in part.grade(attempts)]

    return Part(part.name, cut(part.low), cut(part.high), grade, part.inner)


def summed(parts: Sequence[Part], weights: Sequence[float], name: str) -> Part:
    """weight x value, added up. A part that cannot grade a reply counts with the worst that it can do to the sum: its
    least, or its most where the weight is below 0."""
    ends = [sorted((w * p.low, w * p.high)) for p, w in zip(parts, weights)]

    def grade(attempts: Sequence[Attempt]) -> list[Grade]:
        columns = [part.grade(attempts) for part in parts]
        return [total(found) for found in zip(*columns)]

    def total(found: Sequence[Grade]) -> Grade:
        values = [w * g.value if g.is_graded else worst for g, w, (worst, _) in zip(found, weights, ends)]
        return Grade(sum(values), *told(parts, found), is_graded=all(g.is_graded for g in found))

    return Part(name, sum(low for low, _ in ends), sum(high for _, high in ends), grade, tuple(parts))


def told(parts: Sequence[Part], found: Sequence[Grade]) -> tuple[dict[str, float], str]:
    """Each part's value, those of its own parts too, and what the parts say, each with its name."""
    values: dict[str, float] = {}
    for part, grade in zip(parts, found):
        values[part.name] = grade.value
        values |= {f"{part.name}.{inner}": value for inner, value in grade.parts.items()}
    return values, "; ".join(f"{part.name}: {grade.why}" for part, grade in zip(parts, found) if grade.why)


def computed(formula: Formula, parts: Sequence[Part], ends: kinds.Range, name: str) -> Part:
    """The formula's value, cut to `ends`; the least of these where it, or a part, has none."""
    low, high = ends

    def grade(attempts: Sequence[Attempt]) -> list[Grade]:
        columns = [part.grade(attempts) for part in parts]
        return [at(attempt, [column[i] for column in columns]) for i, attempt in enumerate(attempts)]

    def at(attempt: Attempt, found: Sequence[Grade]) -> Grade:
        values, why = told(parts, found)
        if not all(g.is_graded for g in found):
            return Grade(low, values, why, is_graded=False)
        try:
            mine = {part.name: grade.value for part, grade in zip(parts, found)}
            value = formula.value({n: number(n, mine, attempt) for n in formula.names})
        except NoValue as error:
            return Grade(low, values, str(error), is_graded=False)
        return Grade(min(high, max(low, value)), values, why)

    return Part(name, low, high, grade, tuple(parts))


def number(name: str, mine: dict[str, float], attempt: Attempt) -> float:
    """What a name of a formula stands for: a part, something of the attempt, a fact that is a number."""
    if name in mine:
        return mine[name]
    if name in OF_ATTEMPTS:
        return float(attempt.stopped) if name == "stopped" else float(size(attempt, name.removeprefix("num_")))
    facts = facts_of(attempt)
    if not isinstance(facts.get(name), (int, float)):
        numbers = [n for n, v in facts.items() if isinstance(v, (int, float))]
        raise DataError(
            f"{attempt.example.source or attempt.example.id}: the formula reads {name!r}, which is no number here; "
            f"there are: {', '.join([*mine, *OF_ATTEMPTS, *numbers])}"
        )
    return float(facts[name])
