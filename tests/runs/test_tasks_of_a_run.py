"""A whole tiny run of a task whose metric reads more than the answer: content in a style."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from tests.runs import tiny_runs

from tunesmith.folder import Silent
from tunesmith.recipe import parse
from tunesmith.run import run


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
