"""The cases that several runs held out, in one order, so that what their models answered can be paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, InputError
from tunesmith.evals.metrics import Metric
from tunesmith.report.cases import Case


@dataclass(frozen=True, slots=True)
class Shared:
    """By run, what was asked and answered."""

    cases: tuple[tuple[Case, ...], ...]
    references: tuple[str | tuple[str, ...], ...]
    groups: tuple[str | None, ...] | None

    def outputs(self, run: int, metric: Metric, who: str = "tuned") -> list[object]:
        return outputs(self.cases[run], metric, who)


def outputs(cases: Sequence[Case], metric: Metric, who: str = "tuned") -> list[object]:
    """What the metric reads of each answer: its text, or what was measured when the run asked for it."""
    if metric.needs == "answer":
        return [c.said(who) or "" for c in cases]
    found = [c.measured(who) for c in cases]
    if metric.needs == "judge" or any(m is None for m in found):
        raise unreadable(metric)
    return list(found)


def unreadable(metric: Metric) -> InputError:
    why = (
        ": a judge compared each tuned model with its own base, not with another run's."
        if metric.needs == "judge"
        else ", and not all of these runs measured it as their (first) primary metric."
    )
    return InputError(
        f"the metric {metric.name} cannot be worked out from the texts of a run{why} Name one that reads the answers, "
        "such as --metric rouge_l."
    )


def shared_cases(folders: Sequence[str | Path], of_runs: Sequence[Sequence[Case]]) -> Shared:
    """By example id, which is the hash of prompt and answer. What all runs held out, none of them learned from."""
    by_id = [{c.example_id: c for c in cases} for cases in of_runs]
    ids = sorted(set.intersection(*(set(found) for found in by_id)))
    if not ids:
        counts = ", ".join(f"{folder} held out {len(found)}" for folder, found in zip(folders, by_id))
        raise InputError(
            f"the runs share no held-out case ({counts}): they can be compared on one test file, given to all of them "
            "as data.test"
        )
    cases = tuple(tuple(found[i] for i in ids) for found in by_id)
    if any(c.tuned_output is None for row in cases for c in row):
        raise DataError("a run holds cases that its tuned model did not answer: run it to its end first")
    first = cases[0]
    groups = tuple(c.group or None for c in first)
    if any(len({len(c.turns) for c in same}) > 1 for same in zip(*cases)):
        raise InputError(
            "not all of these played the shared dialogues through on the model's own answers, so their scores are not "
            "of the same thing: run them with the same evals.history (`tunesmith evaluate` asks the last answer only)"
        )
    return Shared(cases, tuple(c.wanted for c in first), groups if any(groups) else None)


def claims_of(verdict: Any) -> list[Any]:
    """Of each primary metric, the first one first; an evaluation has one."""
    return list(verdict.get("claims") or [verdict])


def matters_of(verdicts: Sequence[Any], metric: Metric) -> float:
    """The smallest difference of it that any of the verdicts was to find."""
    own = [c for v in verdicts for c in claims_of(v) if c["metric"] == metric.name]
    return min((c["smallest_that_matters"] for c in own if "smallest_that_matters" in c), default=metric.matters)
