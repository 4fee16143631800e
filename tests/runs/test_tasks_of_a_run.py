"""Whole tiny runs of tasks that others do not show: content in a style, and several labels in one text."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from tests.runs import tiny_runs

from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run

WORDS = ("fox", "dog")


def test_a_style_is_judged_by_bits_and_says_what_these_do_not_see(tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl", 60)
    said = tiny_runs.settings(tiny_runs.model_folder(tmp_path / "model"), data, max_updates=2)
    said |= {"task": {"name": "style"}, "export": ["adapter"]}
    verdict = run(parse(said), yaml.safe_dump(said), tmp_path / "run", Silent())
    assert (verdict["metric"], verdict["less_is_better"]) == ("bits_per_byte", True)
    assert set(verdict["secondary"]) == {"rouge_l", "chrf"}
    assert any("none sees whether an answer has the style" in note for note in verdict["notes"])
    errors = json.loads((tmp_path / "run" / "understanding.json").read_text())["errors"]
    assert errors["metric"] == "rouge_l"  # what reads answers says which of them fail
    plan = {row["key"]: row for row in json.loads((tmp_path / "run" / "plan.json").read_text())["resolved"]}
    assert plan["metric"]["value"] == "bits_per_byte"


def test_labels_in_one_text_are_several_where_the_recipe_says_so(tmp_path: Path) -> None:
    """As a table holds them, which has no lists: they are written, not chosen among those that stood together."""
    rows = [{"text": f"{a} and {b} {n}", "labels": f"{a}, {b}"} for n in range(15) for a in WORDS for b in WORDS]
    data = tiny_runs.written(tmp_path / "rows.jsonl", rows[:60])
    said = tiny_runs.settings(tiny_runs.model_folder(tmp_path / "model"), data, max_updates=2)
    said |= {"task": {"name": "multilabel"}, "export": ["adapter"]}
    said["evals"]["explain_cases"] = 1
    verdict = run(parse(said), yaml.safe_dump(said), tmp_path / "run", Silent())
    assert verdict["metric"] == "label_set_f1"
    assert json.loads((tmp_path / "run" / "serving.json").read_text())["labels"] == []
    assert (tmp_path / "run" / "explained").is_dir()
