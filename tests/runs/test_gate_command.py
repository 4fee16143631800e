"""Gates over whole runs: met, not met, exit codes, and an answer timed as the task answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs import tiny_runs
from tests.runs.mistakes import typed


@pytest.mark.parametrize("kind", ["labels", "texts"])
def test_a_run_is_held_against_its_gates(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make = tiny_runs.labelled_file if kind == "labels" else tiny_runs.reply_file
    recipe = tiny_runs.settings(tiny_runs.model_folder(Path("model")), make(Path("rows.jsonl")), max_updates=1)
    Path("recipe.yaml").write_text(json.dumps(recipe | {"gates": {"latency_s": 100, "effect": -200}}))
    done = typed(["run", "recipe.yaml", "--out", "out", "--json"])
    assert done.code == 0, done.err
    assert [g["name"] for g in json.loads(done.out)["gates"] if g["passed"]] == ["effect", "latency_s"]
    timed = json.loads(Path("out/latency.json").read_text())
    assert len(timed["seconds"]) == 5
    assert 0 < min(timed["seconds"]) <= timed["median_s"] <= max(timed["seconds"])

    held = typed(["gate", "out", "--set", "gates.effect=200", "--json"])
    assert (held.code, json.loads(held.out)["passed"]) == (3, False)
    assert 'failures="1"' in Path("out/gates.xml").read_text()
    assert "not met effect" in typed(["gate", "out", "--set", "gates.effect=200"]).text
    assert typed(["gate", "out"]).code == 0  # the recipe that was kept is as it was
    again = typed(["gate", "out", "--set", "gates.effect=null", "--set", "gates.latency_s=null"])
    assert (again.code, "demands nothing" in again.text) == (2, True)
