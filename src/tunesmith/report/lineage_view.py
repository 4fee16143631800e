"""What a report says of a run that goes on from another one: lineage, four comparisons, and what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tunesmith.report import words
from tunesmith.report.facts import Facts
from tunesmith.report.why_view import brief

HEAD = ("Cases", "Against", "Metric", "Before", "Tuned", "Difference", "Interval", "p (Holm)", "Decision")
LOST_HEAD = ("Case", "Prompt", "Right answer", "Previous run", "Now")


@dataclass(frozen=True, slots=True)
class Lineage:
    runs: tuple[tuple[str, str], ...]  # the first run first, this one last: (lines and name, what was found)
    said: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # under HEAD
    lost: tuple[tuple[str, ...], ...]  # under LOST_HEAD


def view_of(found: Mapping[str, Any], name: str, decision: str) -> Lineage:
    """`name` and `decision`: of this run."""
    runs = [
        (str(run["run"]), f"{run['decision']}, on {', '.join(PurePath(p).name for p in run['data'])}")
        for run in found["runs"]
    ]
    lines = [(f"{'   ' * (k - 1)}└─ " if k else "", run) for k, run in enumerate([*runs, (name, decision)])]
    lost = found.get("forgotten") or {}
    return Lineage(
        tuple((lead + run, said) for lead, (run, said) in lines),
        tuple(filter(None, [lost.get("said"), *map(str, found.get("notes") or ())])),
        tuple(row_of(claim) for claim in found["claims"]),
        tuple(
            (c["example_id"][:8], brief(c["prompt"]), brief(c["reference"]), brief(c["before"]),
             brief(c["now"]))
            for c in lost.get("cases") or ()
        ),
    )  # fmt: skip


def row_of(claim: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{claim['num_cases']} {claim['cases']}", str(claim["against"]), words.metric(claim["metric"]),
        words.number(claim["base"]), words.number(claim["tuned"]), words.signed(claim["effect"]),
        f"{words.interval(claim['interval'], with_sign=True)} ({words.confidence(claim)})",
        words.p_value(claim.get("p_holm")), str(claim["decision"]),
    )  # fmt: skip


def lineage_of(facts: Facts) -> Lineage | None:
    """None where the run goes on from no other, or is not that far."""
    if facts.lineage is None or facts.verdict is None:
        return None
    return view_of(facts.lineage, facts.name, str(facts.verdict["decision"]))
