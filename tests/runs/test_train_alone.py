"""Training and export alone: the same weights as a whole run's, and a later `run --resume` gives the same verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith import runs
from tunesmith.folder import Silent
from tunesmith.models.load import weights_digest
from tunesmith.recipe import parse
from tunesmith.run import run, train
from tunesmith.verified import verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`alone` trained and no more; `whole` run in one go; `later` trained, then measured."""
    where = tmp_path_factory.mktemp("train_alone")
    tiny_runs.world(where)
    said = tiny_runs.settings(where / "model", where / "rows.jsonl", max_updates=4, rehearsal=True)
    recipe, text = parse(said), yaml.safe_dump(said)
    run(recipe, text, where / "whole", Silent())
    for name in ("alone", "later"):
        train(recipe, text, where / name, Silent())
    run(recipe, text, where / "later", Silent(), resume=True)
    return where


def weights(folder: Path) -> str:
    return weights_digest(folder / "adapter")


def test_the_weights_are_those_of_a_whole_run_and_nothing_was_asked(folder: Path) -> None:
    assert weights(folder / "alone") == weights(folder / "whole")
    assert not (folder / "alone" / "scores").exists()
    assert not (folder / "alone" / "verdict.json").exists()
    stages = [s["name"] for s in json.loads((folder / "alone" / "cost.json").read_text())["stages"]]
    assert stages == ["prepare", "rehearsal", "train", "export"]


def test_what_is_planned_is_what_will_be_done(folder: Path) -> None:
    alone, later = (json.loads((folder / name / "plan.json").read_text()) for name in ("alone", "later"))
    planned = alone["seconds"]
    assert set(planned["stages"]) <= {"prepare", "rehearsal", "train", "export"}
    assert planned["all"] == sum(planned["stages"].values())
    assert set(alone["memory"]["stages"]) == {"train", "export"}, "nothing else takes memory, or time to be traced"
    assert "baseline" in later["seconds"]["stages"], "the run that measures is planned whole"
    assert {"baseline", "evaluate"} < set(later["memory"]["stages"])
    rows = [{row["key"] for row in plan["resolved"]} for plan in (alone, later)]
    assert rows[1] - rows[0] == {"guards", "robustness", "evals.explain_cases"}


def test_it_is_measured_later(folder: Path) -> None:
    whole, later = (json.loads((folder / name / "verdict.json").read_text()) for name in ("whole", "later"))
    assert weights(folder / "later") == weights(folder / "whole")
    assert {k: later[k] for k in ("decision", "base", "tuned", "effect", "interval", "p", "num_cases")} == {
        k: whole[k] for k in ("decision", "base", "tuned", "effect", "interval", "p", "num_cases")
    }
    assert all(check.passed is not False for check in verify(folder / "later"))


def test_it_is_listed_and_told_as_what_it_is(folder: Path) -> None:
    found = runs.read(folder / "alone")
    assert (found.state, found.where) == ("trained", "not measured")
    assert "trained and not measured" in (folder / "alone" / "report.html").read_text()
    assert "trained and not measured" not in (folder / "whole" / "report.html").read_text()


def test_the_command_says_where_it_is_and_what_measures_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = typed(["train", str(folder / "whole" / "recipe.yaml"), "--out", "typed"])
    assert said.code == 0, said.err
    assert "adapter: typed/adapter" in said.out
    assert "tunesmith run --resume --out typed" in said.out
    assert weights(folder / "typed") == weights(folder / "whole")


def test_it_is_exported_before_it_is_measured(folder: Path) -> None:
    said = typed(["export", str(folder / "alone"), "--to", "merged", "--out", str(folder / "merged"), "--json"])
    assert said.code == 0, said.err
    assert json.loads(said.out)["prompts"] > 0


def test_mutant_an_export_without_cases_is_refused_and_not_compared_with_nothing(folder: Path) -> None:
    bare = folder / "bare"
    shutil.copytree(folder / "alone", bare)
    (bare / "asked.json").unlink()
    said = typed(["export", str(bare), "--to", "merged", "--out", str(folder / "no")])
    assert (said.code, (folder / "no").exists()) == (2, False)
    assert "tunesmith run --resume" in said.err
