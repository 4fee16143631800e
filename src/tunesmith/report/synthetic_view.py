"""What a report says of rows that a model wrote: their share, and the verdict with and without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError, InputError
from tunesmith.evals.compare import BETTER, SAME, WORSE, Cases, Rules, decide, measure, signed
from tunesmith.evals.dialogues import over_turns
from tunesmith.evals.metrics import METRICS
from tunesmith.report import words
from tunesmith.report.facts import Facts
from tunesmith.report.shared import matters_of, shared_cases

SYNTHETIC_HEAD = ("Learned from", "Run", "Base", "Tuned", "Difference", "Interval", "Decision")
WITH, WITHOUT = "all rows", "without synthetic rows"
SAID = {BETTER: "they help", WORSE: "they harm", SAME: "they make no difference that matters"}
NOT_KNOWN = "whether they help or harm, these cases are too few to tell"


@dataclass(frozen=True, slots=True)
class Synthetic:
    said: str
    rows: tuple[tuple[str, ...], ...]  # under SYNTHETIC_HEAD
    paired: str = ""  # what they bring, case by case


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
    both += [] if facts.without is None else [(facts.without.name, not facts.uses_synthetic, facts.without.verdict)]
    rows = tuple(row_of(*one) for one in sorted(both, key=lambda one: not one[1]))
    return Synthetic(said, rows, "" if facts.without is None else paired(facts))


def paired(facts: Facts) -> str:
    """The tuned model that learned from them against the one that did not, on the cases that both answered: two
    intervals beside each other say less than the one of the difference."""
    other = facts.without
    assert other is not None
    assert facts.verdict is not None
    runs = [(other.verdict, other.cases), (facts.verdict, facts.cases)]  # the second is the one that has them
    (one, first), (two, second) = runs if facts.uses_synthetic else runs[::-1]
    if one["metric"] != two["metric"]:
        return f"The two verdicts are about {one['metric']} and {two['metric']}, and cannot be paired."
    if one["metric"] not in METRICS:
        return f"{one['metric']} is a metric of your own, which a report does not work out again: they are not paired."
    try:
        common = shared_cases(("the one without them", "the one with them"), (first or (), second or ()))
        metric = METRICS[two["metric"]]
        metric = over_turns(metric) if any(case.turns for case in common.cases[0]) else metric
        off, on = (common.outputs(run, metric) for run in (0, 1))
        found = measure(
            Cases(common.references, off, on, common.groups), metric, Rules(alpha=float(two.get("alpha", 0.05)))
        )
    except (InputError, DataError) as error:
        return f"The two runs could not be paired: {error}"
    low, high = (signed(end, metric) for end in found.interval)
    said = SAID.get(decide(found.interval, matters_of((one, two), metric)), NOT_KNOWN)
    return (
        f"With them minus without them, paired over the {len(common.references)} cases that both tuned models "
        f"answered: {metric.name} {signed(found.effect, metric)}, interval {low} to {high} ({found.test}, p = "
        f"{found.p:.2g}): {said}."
    )


def row_of(name: str, with_them: bool, verdict: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        WITH if with_them else WITHOUT, name, words.number(verdict["base"]), words.number(verdict["tuned"]),
        words.signed(verdict["effect"]), words.interval(verdict["interval"], with_sign=True), str(verdict["decision"]),
    )  # fmt: skip
