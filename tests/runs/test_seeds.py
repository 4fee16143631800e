"""Several seeds of one recipe: one split, one baseline, and a resume that keeps what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs import tiny_runs
from tests.runs.mistakes import typed


def test_three_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_runs.model_folder(tmp_path / "model")
    recipe = tiny_runs.settings(Path("model"), tiny_runs.labelled_file(Path("rows.jsonl")), max_updates=2)
    Path("recipe.yaml").write_text(json.dumps(recipe))
    done = typed(["run", "recipe.yaml", "--out", "out", "--seeds", "3", "--json"])
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads(Path("out/seeds.json").read_text())
    assert (found["num_seeds"], found["decision"]) == (3, "too few seeds")
    verdicts = [json.loads(Path(f"out/seed_{n}/verdict.json").read_text()) for n in range(3)]
    assert found["effects"] == [v["effect"] for v in verdicts]
    assert len({v["digests"]["test_cases"] for v in verdicts}) == 1
    assert len({v["digests"]["tuned"] for v in verdicts}) == 3  # the seed does change the training
    base = [Path(f"out/seed_{n}/scores/base.json").read_text() for n in range(3)]
    assert base[0] == base[1] == base[2]

    kept = Path("out/seed_0/verdict.json").stat().st_mtime_ns
    Path("out/seed_2/verdict.json").unlink()  # as if it had been stopped there
    again = typed(["run", "--out", "out", "--seeds", "3", "--resume", "--json"])
    assert json.loads(again.out) == found
    assert Path("out/seed_0/verdict.json").stat().st_mtime_ns == kept
    text = typed(["run", "--out", "out", "--seeds", "3", "--resume"]).out
    assert "A claim about the method needs at least 6 seeds" in text
    Path("out/seed_1/gates.json").write_text(json.dumps([{"name": "effect", "passed": False}]))
    assert typed(["run", "--out", "out", "--seeds", "3", "--resume", "--json"]).code == 3  # a gate of one seed
    assert typed(["run", "recipe.yaml", "--out", "out", "--seeds", "1", "--resume"]).code == 2
    assert typed(["run", "recipe.yaml", "--out", "out", "--seeds", "3", "--require-better", "--resume"]).code == 3
