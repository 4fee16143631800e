"""What the page says of robustness.json: the worst slice, floors, and what was not tried."""

from __future__ import annotations

from typing import Any

from tunesmith.by_heart import MOST_READ
from tunesmith.evals import exposure
from tunesmith.report.robustness_view import robustness

ROW = {
    "dimension": "file",
    "name": "b.csv",
    "num_cases": 30,
    "base": 0.8,
    "tuned": 0.6,
    "effect": -0.2,
    "interval": [-0.4, 0.1],
}
PAIR = {"effect": -0.1, "interval": [-0.3, 0.1], "p": 0.3}
CHANGE = {
    "change": "typos, 10%", "num_cases": 40, "base": 0.5, "base_changed": 0.4, "tuned": 0.9, "tuned_changed": 0.7,
    "difference": PAIR, "base_loss": PAIR, "tuned_loss": PAIR, "is_floor": True,
}  # fmt: skip


def facts(**more: Any) -> dict[str, Any]:
    cut = {
        "num_slices": 3,
        "rows": [{**ROW, "name": "a.csv", "effect": 0.3}, ROW],
        "worst": ROW,
        "too_few": [],
        "gaps": [],
    }
    return {"level": "quick", "slices": cut, "contamination": None, "overfitting": None, "changes": [], **more}


def test_the_worst_slice_is_named_first_and_stands_first_in_its_table() -> None:
    view = robustness(facts())
    assert view.said[0].startswith("Worst of 3 slices: file b.csv, 0.800 → 0.600 on 30 cases")
    [sheet] = view.sheets
    assert [row[1] for row in sheet.rows] == ["b.csv", "a.csv"]
    assert all(len(row) == len(sheet.head) for row in sheet.rows)


def test_a_floor_and_what_was_found_by_asking_are_said() -> None:
    scope = {"num_texts": 32, "sure_frac": 0.75, "interval": [0.58, 0.87], "sure_held_out_frac": 0.9}
    begun = {
        "num_train": 20,
        "num_dev": 12,
        "base": 0.0,
        "tuned": 0.9,
        "dev": 0.1,
        "excess": 0.8,
        "interval": [0.5, 0.9],
    }
    view = robustness(facts(changes=[CHANGE], out_of_scope=scope, memorised=begun))
    said = " ".join(view.said)
    assert "at the floor" in said
    assert "Of 32 texts that belong to no label 75% were answered without doubt" in said
    assert "90% of 20 from training, 10% of 12 that it never saw" in said
    assert view.sheets[-1].rows[0][:2] == ("typos, 10%", "40")


def test_what_was_not_tried_is_said_and_no_slice_is_no_error() -> None:
    none = {
        "num_slices": 0,
        "rows": [],
        "worst": None,
        "too_few": [{"dimension": "label", "name": "x", "num_cases": 4}],
        "gaps": [],
    }
    view = robustness(facts(level="off", slices=none))
    assert "No slice" in view.said[0]
    assert "label x (4)" in view.said[1]
    assert "evals.robustness is off" in view.said[-1]
    assert view.sheets == ()


def test_secrets_that_could_not_be_measured_are_said_to_be_there() -> None:
    said = robustness(facts(exposure={"not_measured": exposure.too_dear(9_000, "off", MOST_READ)})).said
    [sentence] = [s for s in said if s.startswith("Exposure")]
    assert "8 of them take 9,000 tokens a model" in sentence
    assert sentence.endswith("evals.robustness: quick measures it.")


def test_cases_from_elsewhere_name_labels_that_training_never_shows() -> None:
    row = {"num_cases": 12, "base": 0.2, "tuned": 0.5, "effect": 0.3, "interval": [0.1, 0.5], "unknown_labels": ["owl"]}
    [sheet] = [s for s in robustness(facts(ood=row)).sheets if s.title == "Cases from elsewhere"]
    assert "owl" in sheet.caption
    assert sheet.rows == (("12", "0.200", "0.500", "+0.300", "+0.100 to +0.500"),)
