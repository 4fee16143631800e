"""What stands around learning from pairs: a run that goes on from another, a reference pass that is stopped, a sweep,
gates.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.test_preference_runs import LN2, nats, pair_file, read, rows_of, settings, start

from tunesmith import reference, sweep
from tunesmith.errors import Interrupted
from tunesmith.folder import Silent
from tunesmith.recipe import parse


def new_pairs(path: Path, num: int = 40) -> Path:
    rng, rows = random.Random(9), []
    for i in range(num):
        word, other = rng.sample(tiny_runs.WORDS, 2)
        rows.append({"prompt": f"and {word} {i}?", "chosen": f"the {word}", "rejected": f"no {other}"})
    return tiny_runs.written(path, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_runs.model_world(tmp_path_factory)
    pair_file(folder / "pairs.jsonl")
    new_pairs(folder / "new.jsonl")
    start(folder, "run", gates={"decision": "better", "effect": 0.99})
    return folder


def test_a_run_that_goes_on_learns_against_its_parent(world: Path) -> None:
    """Its reference is the parent's model, not the base: the loss begins at ln 2 again."""
    data = {"train": [str(world / "new.jsonl")]}
    start(world, "onward", parent={"run": str(world / "run"), "replay": 0.2}, data=data)
    kept = {tuple(round(n, 2) for n in found) for found in read(world / "onward" / reference.NAME)["nats"].values()}
    for folder, is_reference in ((world / "run" / "merged", True), (world / "model", False)):
        sources = [yaml.safe_load(line) for line in (world / "new.jsonl").read_text().splitlines()[:8]]
        found = {
            tuple(round(nats(folder, r["prompt"], r[side]), 2) for side in ("chosen", "rejected")) for r in sources
        }
        assert bool(found & kept) == is_reference
    learned = [row for row in rows_of(world / "onward") if "loss" in row]
    assert learned[0]["loss"] == pytest.approx(LN2, abs=1e-5)


class StopsInReference(Silent):
    def step(self, done: int, total: int, text: str) -> None:
        if text == "pairs under the reference":
            raise Interrupted("stopped by the test")


def test_a_stopped_reference_pass_is_made_again(world: Path) -> None:
    gates: dict[str, Any] = {"gates": {"decision": "better", "effect": 0.99}}
    with pytest.raises(Interrupted):
        start(world, "halted", StopsInReference(), **gates)
    assert not (world / "halted" / reference.NAME).exists()
    again = start(world, "halted", resume=True, **gates)
    assert again["digests"]["tuned"] == read(world / "run" / "verdict.json")["digests"]["tuned"]
    same = read(world / "run" / reference.NAME)["digest"]
    assert read(world / "halted" / reference.NAME)["digest"] == same


def test_gates_read_the_verdict_of_pairs(world: Path) -> None:
    found = {row["name"]: row for row in read(world / "run" / "gates.json")}
    assert not found["effect"]["passed"]
    assert "preference_accuracy" in str(found)


def test_a_sweep_chooses_by_the_loss_of_pairs(world: Path) -> None:
    said = settings(world) | {"sweep": {"space": {"train.lr": [1e-5, 3e-3]}, "trials": 2}}
    found = sweep.sweep(parse(said), yaml.safe_dump(said), world / "swept", Silent(), resume=False)
    losses = {row["values"]["train.lr"]: row["loss"] for row in found["rows"]}
    assert losses[3e-3] < losses[1e-5] < LN2 + 1e-3
    best = next(row for row in found["rows"] if row["number"] == found["best"])
    assert best["values"]["train.lr"] == 3e-3
