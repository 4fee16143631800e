"""`tunesmith sweep` on a tiny model: what it chooses, that test is never seen, that a kill loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith import build, sweep
from tunesmith.build import Material
from tunesmith.errors import RunError
from tunesmith.folder import Silent
from tunesmith.recipe import parse

SPACE = {"train.lr": "1e-4..1e-1", "adapt.rank": [2, 4]}


def settings(folder: Path, data: Path, **asked: Any) -> dict[str, Any]:
    made = tiny_runs.settings(folder / "model", data, max_updates=6, every_checkpoint=2)
    return made | {"sweep": {"space": SPACE, "trials": 4, **asked}}


def search(made: dict[str, Any], out: Path, tell: Any = None, *, resume: bool = False) -> dict[str, Any]:
    return sweep.sweep(parse(made), yaml.safe_dump(made), out, tell or Silent(), resume=resume)


def results(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All but what a clock says."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found["rows"]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.world(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    return search(settings(place, place / "rows.jsonl"), place / "whole")


def test_the_best_on_dev_becomes_a_recipe_and_the_verdict_says_among_how_many(
    place: Path, found: dict[str, Any]
) -> None:
    assert found == json.loads((place / "whole" / "sweep.json").read_text())
    ended = [r for r in found["rows"] if r["value"] is not None]
    first = min(ended, key=lambda r: r["value"])
    assert (len(found["rows"]), found["best"]) == (4, first["number"])
    best = yaml.safe_load((place / "whole" / "best.yaml").read_text())
    assert (best["train"]["lr"], best["adapt"]["rank"]) == tuple(first["values"].values())
    assert best["sweep"] == {"tried": 4}
    for name in ("sweep.md", "sweep.html"):
        text = (place / "whole" / name).read_text()
        assert f"Setting {first['number']} " in text
        assert "No test case was seen" in text
    done = typed(["run", found["recipe"], "--out", str(place / "chosen"), "--json"])
    assert done.code == 0, done.text
    assert "chosen among 4 settings on dev" in " ".join(json.loads(done.out)["notes"])
    rows = [json.loads(line) for line in (place / "chosen" / "metrics.jsonl").read_text().splitlines()]
    assert [r["dev_loss"] for r in rows if "dev_loss" in r][-1] == first["loss"]  # a trial is a run's own training
    assert not list((place / "whole").rglob("checkpoints"))
    runs = json.loads(typed(["runs", str(place), "--json"]).out)
    assert [r["folder"] for r in runs] == [str(place / "chosen")]  # trials are no runs


def with_other_test_labels(place: Path) -> Path:
    """The rows with the labels of the held-out ones moved on by one: nothing else differs."""
    _, parts, _ = build.read_split(parse(settings(place, place / "rows.jsonl")), None)
    held_out = {e.prompt[-1].content for e in parts.test}
    rows = [json.loads(line) for line in (place / "rows.jsonl").read_text().splitlines()]
    names = sorted({r["label"] for r in rows})
    for row in rows:
        if row["text"] in held_out:
            row["label"] = names[(names.index(row["label"]) + 1) % len(names)]
    (place / "other").mkdir(exist_ok=True)
    return tiny_runs.written(place / "other" / "rows.jsonl", rows)


def test_no_trial_sees_a_test_case(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with every label of the test cases changed, each trial comes to the same figures, to the last bit. The
    mutant scores on the test cases in the place of dev, and is found."""
    other = with_other_test_labels(place)
    one, two = (results(search(made, out)) for made, out in both(place, other, "law"))
    assert one == two

    away: Callable[[Material], Material] = sweep.put_away

    def mutant(made: Material) -> Material:
        return away(replace(made, split=replace(made.split, dev=made.split.test)))

    monkeypatch.setattr(sweep, "put_away", mutant)
    one, two = (results(search(made, out)) for made, out in both(place, other, "mutant"))
    assert one != two


def both(place: Path, other: Path, name: str) -> list[tuple[dict[str, Any], Path]]:
    few = {"trials": 1, "on": "score"}
    return [
        (settings(place, data, **few), place / f"{name}_{i}") for i, data in enumerate((place / "rows.jsonl", other))
    ]


class Killed(Silent):
    """Kills the process, as it were, in an update of the third trial."""

    def __init__(self) -> None:
        self.num = 0

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self.num += update == 1
        if self.num == 3 and update == 3:
            raise KeyboardInterrupt


def test_a_killed_search_goes_on_as_if_nothing_had_been(place: Path, found: dict[str, Any]) -> None:
    made, out = settings(place, place / "rows.jsonl"), place / "killed"
    with pytest.raises(KeyboardInterrupt):
        search(made, out, Killed())
    assert len(json.loads((out / "sweep.json").read_text())["rows"]) == 2
    assert any((out / "trials" / "trial_003" / "checkpoints").iterdir())
    made = settings(place, place / "rows.jsonl", minutes=600)  # the budget may be another
    assert results(search(made, out, resume=True)) == results(found)
    said = typed(["sweep", "--out", str(out), "--resume", "--set", "train.epochs=5"])
    assert said.code == 2
    assert "train.epochs changed since then" in said.text


def test_what_cannot_be_tried_is_a_row_with_its_reason(place: Path) -> None:
    asked = settings(place, place / "rows.jsonl", trials=9)
    asked["sweep"]["space"] = {"train.lr": [0.01, 1e18], "regularise.rdrop": [0.0, 1.0]}
    found = search(asked, place / "refused")
    states = {(r["values"]["train.lr"], r["values"]["regularise.rdrop"]): (r["state"], r["why"]) for r in found["rows"]}
    assert len(found["rows"]) == 4  # all there is, each once, though nine were allowed
    assert states[0.01, 0.0] == ("tried", "")
    assert states[0.01, 1.0][0] == "refused"
    assert "nothing here drops anything" in states[0.01, 1.0][1]
    assert states[1e18, 0.0][0] in ("diverged", "pruned")


def test_what_the_recipe_says_for_another_method_is_left_out_of_its_trials(place: Path) -> None:
    """And of best.yaml; but not where the space itself says it."""
    asked = settings(place, place / "rows.jsonl", trials=9)
    asked["sweep"]["space"] = {"adapt.method": ["lora", "last_k"], "adapt.last_k": [1, 2]}
    rows = search(asked, place / "methods")["rows"]
    states = {(r["values"]["adapt.method"], r["values"]["adapt.last_k"]): r["state"] for r in rows}
    assert {key for key, state in states.items() if state == "refused"} == {("lora", 1)}
    changed, said = sweep.changed(yaml.safe_dump(asked), {"adapt.method": "last_k", "adapt.last_k": 1}, tried=4)
    assert said["adapt"] == {"method": "last_k", "last_k": 1}
    assert not changed.adapt.unread


def test_what_the_recipe_says_for_another_trial_does_not_end_the_search(place: Path) -> None:
    """Neither the trial in which nothing reads it, nor what is made ready before them all."""
    asked = settings(place, place / "rows.jsonl", trials=2) | {"objective": {"temperature": 0.1}}
    asked["sweep"]["space"] = {"objective.contrastive": [0.0, 0.5]}
    rows = search(asked, place / "temperature")["rows"]
    assert [(r["values"]["objective.contrastive"], r["state"]) for r in rows] == [(0.0, "tried"), (0.5, "tried")]
    text = yaml.safe_dump(asked)
    assert sweep.changed(text, {"objective.contrastive": 0.0})[1]["objective"] == {"contrastive": 0.0}
    assert sweep.changed(text, {"objective.contrastive": 0.5})[0].objective.temperature == 0.1
    assert sweep.changed(text, {"train.lr": 0.1})[0].objective.temperature == 0.1  # no trial reads it: to be refused


class Starved(Silent):
    """The allocator's own refusal in the second update of the first trial."""

    def __init__(self) -> None:
        self.num = 0

    def updated(self, update: int, num_updates: int, facts: Mapping[str, float]) -> None:
        self.num += 1
        if self.num == 2:
            torch.empty(2**60)


def test_memory_that_runs_out_is_a_row_and_the_search_goes_on(place: Path, recwarn: pytest.WarningsRecorder) -> None:
    """It is not gone into again. Mutant of the looks: eighteen updates are looked at one by one, which Optuna notes."""
    asked = settings(place, place / "rows.jsonl", trials=2) | {"adapt": {"rank": 2}}
    asked["train"] |= {"max_updates": 18, "epochs": 20}
    asked["sweep"]["space"] = {"train.lr": [0.01, 0.02]}
    found = search(asked, place / "starved", Starved())
    assert [r["state"] for r in found["rows"]] == ["no memory", "tried"]
    assert "memory ran out after update 2" in found["rows"][0]["why"]
    assert "ended: no memory left" in (place / "starved" / "sweep.md").read_text()
    assert results(search(asked, place / "starved", resume=True)) == results(found)
    assert [u for u, _ in found["rows"][1]["curve"]] == [0, *range(2, 19, 2)]
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def test_the_time_ends_a_search(place: Path) -> None:
    with pytest.raises(RunError, match="out of time: the time was over at update 0 of 6"):
        search(settings(place, place / "rows.jsonl", minutes=1e-5), place / "late")


def test_the_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    made = settings(place, place / "rows.jsonl")
    del made["sweep"]
    Path("recipe.yaml").write_text(json.dumps(made))
    words = "sweep recipe.yaml --trials 1 --out typed --try rank=2,4 --try lr=2e-2,3e-2 --set train.lr=0.03"
    said = typed(words.split())
    assert said.code == 0, said.text
    assert "tunesmith run typed/best.yaml" in said.out
    kept = yaml.safe_load(Path("typed/recipe.yaml").read_text())
    assert kept["sweep"] == {"trials": 1, "space": {"adapt.rank": [2, 4], "train.lr": ["2e-2", "3e-2"]}}
    assert json.loads(Path("typed/sweep.json").read_text())["rows"][0]["values"] == {"adapt.rank": 4, "train.lr": 0.03}
    assert "each once" in typed(["sweep", "recipe.yaml", "--try", "lr=1e-4,0.0001"]).text
    assert typed(["sweep", "recipe.yaml", "--try", "data.max_tokens=1,2"]).code == 2
    assert typed(["sweep", "recipe.yaml", "--out", "typed"]).code == 2  # is not empty
    assert typed(["sweep", "recipe.yaml", "--resume"]).code == 2
