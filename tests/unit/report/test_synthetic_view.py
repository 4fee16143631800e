"""With and without rows that a model wrote: the two runs are paired, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.report import run_folders

from tunesmith.evals.mcnemar import p_at
from tunesmith.report import facts
from tunesmith.report.card import synthetic_lines
from tunesmith.report.html import render
from tunesmith.report.synthetic_view import synthetic_of

RECIPE = "model: tiny\ndata:\n  train: [rows.jsonl]\n"


def beside(folder: Path, name: str, rights: list[int], recipe: str, **others: Any) -> Path:
    cases = [run_folders.case(i, 0.0, float(right), **others) for i, right in enumerate(rights)]
    path = run_folders.make(folder / name, cases=cases)
    (path / "recipe.yaml").write_text(recipe)
    return path


def two(folder: Path, with_them: list[int], without: list[int], **others: Any) -> tuple[Path, Path]:
    off = RECIPE + "  synthetic: false\n"
    return beside(folder, "with", with_them, RECIPE, **others), beside(folder, "without", without, off, **others)


def test_the_difference_is_paired_by_hand(tmp_path: Path) -> None:
    """12 cases right only with them, 2 only without, 10 with both, 16 with neither: McNemar on 12 against 2. A mutant
    that swaps the two says that they harm."""
    runs = two(tmp_path, [1] * 10 + [1] * 12 + [0] * 18, [1] * 10 + [0] * 12 + [1] * 2 + [0] * 16)
    for run in runs:  # of either run's report
        found = synthetic_of(facts.read(run))
        assert found is not None
        assert "paired over the 40 cases" in found.paired
        assert "accuracy +0.250, interval +0.0" in found.paired
        assert f"p = {p_at(12, 2, 40, 0.0):.2g}): they help." in found.paired
        assert any("they help" in line for line in synthetic_lines(facts.read(run)))
        assert "they help" in render(facts.read(run))


def test_the_same_answers_make_no_difference(tmp_path: Path) -> None:
    one, _ = two(tmp_path, [1, 0] * 400, [1, 0] * 400)
    found = synthetic_of(facts.read(one))
    assert found is not None
    assert "accuracy +0.000" in found.paired
    assert "they make no difference that matters" in found.paired


@pytest.mark.parametrize("others", [{"example_id": "one and the same"}, {"tuned_output": None}])
def test_what_cannot_be_paired_is_said(tmp_path: Path, others: dict[str, Any]) -> None:
    one, other = two(tmp_path, [1] * 8, [1] * 8, **others)
    if "example_id" in others:
        run_folders.make(other, cases=[run_folders.case(99, 0.0, 1.0)])
        (other / "recipe.yaml").write_text(RECIPE + "  synthetic: false\n")
    found = synthetic_of(facts.read(one))
    assert found is not None
    assert found.paired.startswith("The two runs could not be paired: ")
