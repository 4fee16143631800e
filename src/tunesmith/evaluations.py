"""The folder of an evaluation, read again: what `tunesmith evaluate` found, for those who compare or judge it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tunesmith.errors import InputError
from tunesmith.files import read_json
from tunesmith.report.cases import Case
from tunesmith.report.facts import Facts

NAME, CASES, REPORT = "evaluation.json", "cases.parquet", "report.md"


@dataclass(frozen=True, slots=True)
class Evaluation:
    facts: dict[str, Any]  # evaluation.json
    rows: tuple[dict[str, Any], ...]  # cases.parquet

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(model["name"] for model in self.facts["models"])


def is_evaluation(folder: Path) -> bool:
    return (folder / NAME).is_file()


def read(folder: Path) -> Evaluation:
    if not (folder / CASES).is_file():
        raise InputError(f"{folder} lacks {CASES}, which `tunesmith evaluate` wrote: copy the whole folder")
    return Evaluation(read_json(folder / NAME), tuple(pq.read_table(folder / CASES).to_pylist()))


def as_run(folder: Path) -> Facts:
    """The first model of an evaluation in the place of a tuned one; the other, where there is one, in that of the
    base."""
    found = read(folder)
    model = found.facts["models"][0]
    cases = tuple(
        Case(
            example_id=row["example_id"],
            source=row["source"],
            group=row["group"] or None,
            prompt=row["prompt"],
            reference=row["reference"],
            base_output=row.get("against_output"),
            tuned_output=row["output"],
            base_score=row.get("against_score"),
            tuned_score=row["score"],
            base_stopped=row.get("against_stopped"),
            tuned_stopped=row["stopped"],
        )
        for row in found.rows
    )
    verdict = {name: found.facts[name] for name in ("metric", "alpha", "smallest_that_matters")}
    empty: dict[str, Any] = dict.fromkeys(field.name for field in fields(Facts))
    told: dict[str, Any] = {
        "name": model["name"], "cases": cases, "missing": (), "plan": {"model": {"name": model["name"]}},
        "verdict": verdict | {"decision": found.facts.get("decision", "")},
    }  # fmt: skip
    return Facts(**(empty | told))
