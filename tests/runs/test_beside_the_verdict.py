"""What stands beside a verdict: simple baselines that do as well, the form chosen on dev, and the cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.runs import tiny_runs

from tunesmith.folder import RunFolder, Silent
from tunesmith.recipe import parse
from tunesmith.run import cost_of, run


def test_a_text_whose_nearest_training_example_answers_it(tmp_path: Path) -> None:
    """Two updates teach a tiny model nothing, and the same question stands in training with another number. A mutant
    without the baseline, without its sentence, or that takes any form of the prompt, fails here."""
    model = tiny_runs.model_folder(tmp_path / "model")
    settings = tiny_runs.settings(model, tiny_runs.reply_file(tmp_path / "rows.jsonl"), max_updates=2, watch=0)
    verdict = run(parse(settings), yaml.safe_dump(settings), tmp_path / "out", Silent())
    assert set(verdict["baselines"]) == {"majority answer", "nearest training example", "input unchanged"}
    assert verdict["baselines"]["nearest training example"] > verdict["tuned"]
    said = [n for n in verdict["notes"] if n.startswith("nearest training example scores")]
    assert len(said) == 1
    assert "this simple baseline does as well or better" in said[0]
    forms = json.loads((tmp_path / "out" / "scores" / "forms.json").read_text())
    assert len(forms) > 1
    [chosen] = [f for f in forms if f["chosen"]]
    assert chosen["dev_score"] == max(f["dev_score"] for f in forms)
    assert verdict["base_form"] == chosen["form"]
    cost = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert cost["train_tokens"] > 0
    assert cost["peak_gib"] > 0
    assert cost["total_s"] == pytest.approx(sum(s["seconds"] for s in cost["stages"]), abs=0.01)
    assert "per_point" not in cost  # nothing was gained
    assert not (tmp_path / "out" / "explained").exists()  # evals.explain_cases: 0


def test_the_cost_of_a_point_is_of_a_hundredth_of_the_range(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "run", Silent(), resume=False)
    folder.stages = [{"name": "train", "seconds": 60.0, "budget_s": None}]
    better = {"decision": "better", "effect": 0.2}
    assert cost_of(folder, better, 1.0)["per_point"] == {"seconds": pytest.approx(3.0)}
    assert cost_of(folder, better | {"effect": 20.0}, 100.0)["per_point"] == {"seconds": pytest.approx(3.0)}
    for nothing in ("worse", "no relevant difference", "too few cases"):
        assert "per_point" not in cost_of(folder, better | {"decision": nothing}, 1.0)
