"""Where the change happened: right answers by label, or by field of a JSON answer. Counts, not a second verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.evals.json_scores import same
from tunesmith.report import cases
from tunesmith.report.cases import Case

MOST_LABELS = 25
MOST_FIELDS = 25
LABEL_CHARS = 60


@dataclass(frozen=True, slots=True)
class Part:
    """A label or a field. Its tag is on its cases; with "b" or "t" behind it, on those that base or tuned got right;
    with "x", on those that tuned got wrong."""

    name: str
    tag: str
    num: int
    base_right: int
    tuned_right: int


@dataclass(frozen=True, slots=True)
class Breakdown:
    title: str  # "" = these cases have no such parts
    parts: tuple[Part, ...]
    tags: dict[str, list[str]]  # of each example id


def breakdown(found: Sequence[Case]) -> Breakdown:
    """By field where every reference is a JSON object, by label where references are few and short, else nothing, as
    of pairs."""
    if cases.are_pairs(found):
        return Breakdown("", (), {})
    fields = [cases.json_fields(c.reference) for c in found]
    if found and all(fields):
        names = list(dict.fromkeys(k for wanted in fields for k in wanted or ()))
        if len(names) <= MOST_FIELDS:
            return counted("Field", names, [of_fields(c, w or {}) for c, w in zip(found, fields, strict=True)], found)
    labels = sorted({c.reference for c in found})
    few = 2 <= len(labels) <= MOST_LABELS and 3 * len(labels) <= len(found)
    if few and all(0 < len(label) <= LABEL_CHARS for label in labels) and cases.is_right_or_wrong(found):
        rights = [{c.reference: (c.base_score == 1, c.tuned_score == 1)} for c in found]
        return counted("Label", labels, rights, found)
    return Breakdown("", (), {})


def of_fields(case: Case, wanted: dict[str, object]) -> dict[str, tuple[bool, bool]]:
    """Of each field of the reference: whether base and tuned have just this value."""
    base, tuned = (cases.json_fields(output) or {} for output in (case.base_output, case.tuned_output))
    return {k: (k in base and same(base[k], v), k in tuned and same(tuned[k], v)) for k, v in wanted.items()}


def counted(
    title: str, names: Sequence[str], rights: Sequence[dict[str, tuple[bool, bool]]], found: Sequence[Case]
) -> Breakdown:
    """`rights`: for each case, its parts and whether base and tuned got them right."""
    tag = {name: f"p{number}" for number, name in enumerate(names)}
    tags = {
        case.example_id: [
            tag[name] + end
            for name, (b, t) in row.items()
            for end, is_on in (("", True), ("b", b), ("t", t), ("x", not t))
            if is_on
        ]
        for case, row in zip(found, rights, strict=True)
    }
    tally = Counter(t for row in tags.values() for t in row)
    parts = tuple(Part(n, t, tally[t], tally[f"{t}b"], tally[f"{t}t"]) for n, t in tag.items())
    return Breakdown(title, parts, tags)
