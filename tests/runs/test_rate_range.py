"""`tunesmith sweep --range` on a tiny model: the rates that were tried, what is taken of them, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runs import tiny_runs
from tests.runs.mistakes import typed

from tunesmith.errors import PlanError, RunError
from tunesmith.folder import Silent
from tunesmith.rate_range import BY, Heard, Rising, rate_range, read, smooth
from tunesmith.recipe import parse
from tunesmith.trial import Ended


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.world(tmp_path_factory.mktemp("range"))


def asked(place: Path, **train: Any) -> dict[str, Any]:
    return tiny_runs.settings(place / "model", place / "rows.jsonl", **{"max_updates": 6, "epochs": 20, **train})


def test_the_rate_that_is_taken_is_the_one_of_the_recipe_that_is_left(place: Path) -> None:
    """It goes to its own number of updates, whatever the recipe's, and by equal factors; the losses are a training's:
    they fall. The command line says the same."""
    (place / "recipe.yaml").write_text(yaml.safe_dump(asked(place)))
    assert asked(place)["train"]["max_updates"] == 6
    said = typed(["sweep", str(place / "recipe.yaml"), "--range", "--out", str(place / "found"), "--json"])
    assert said.code == 0, said.text
    found = json.loads((place / "found" / "range.json").read_text())
    assert found == {k: v for k, v in json.loads(said.out).items() if k != "folder"}
    rates = found["rates"]
    assert rates[0] == pytest.approx(found["usual"] / BY)
    steps = [b / a for a, b in pairwise(rates)]
    assert steps == pytest.approx([(BY * BY) ** (1 / (found["num_updates"] - 1))] * len(steps))
    assert found["num_updates"] > 20
    assert min(found["smoothed"]) < 0.8 * found["smoothed"][0]
    assert found["lr"] == pytest.approx(found["least_at"] / 10, rel=0.05)
    best = yaml.safe_load((place / "found" / "best.yaml").read_text())
    assert best == asked(place) | {"train": {**asked(place)["train"], "lr": found["lr"]}}
    page = (place / "found" / "range.html").read_text()
    assert f"A rate to begin with: {found['lr']:.2g}" in page
    assert page.count("<circle") == len(rates)


def test_the_same_twice(place: Path) -> None:
    made = asked(place)
    once, again = (rate_range(parse(made), yaml.safe_dump(made), place / n, Silent()) for n in ("one", "two"))
    assert once == again


def heard(losses: list[float], num: int) -> Heard:
    """What is kept of these losses; it may end before the last."""
    one = Heard(Silent(), num)
    for k, loss in enumerate(losses):
        one(k + 1, {"lr": 1e-4 * Rising().factor(k, num), "loss": loss, "tokens_per_s": 1.0})
    return one


def test_taken_is_a_tenth_of_the_rate_of_the_least_smoothed_loss() -> None:
    """By hand: 20 updates are smoothed by halves. The least single loss is an outlier (update 5), and not taken.
    Mutant: the least loss as it is."""
    losses = [4.0] * 5 + [1.0] + [4.0] * 4 + [2.0] * 4 + [4.0] * 6
    found, lr = read(heard(losses, 20), 1e-6, 20, "")
    assert smooth([4.0, 2.0], 20) == pytest.approx([4.0, (0.25 * 4 + 0.5 * 2) / 0.75])
    assert min(range(20), key=losses.__getitem__) == 5
    assert found["least_at"] == found["rates"][13]
    assert lr == float(f"{found['rates'][13] / 10:.2g}")


def test_it_ends_where_the_loss_has_risen_to_twice_its_least() -> None:
    with pytest.raises(Ended, match="2 times its least"):
        heard([2.0] * 10 + [9.0] * 10, 20)


def test_a_loss_that_never_fell_is_said(place: Path) -> None:
    with pytest.raises(RunError, match="never fell"):
        read(heard([2.0 + k / 20 for k in range(20)], 20), 1e-6, 20, "")
    with pytest.raises(RunError, match="no number from the first"):
        read(heard([], 20), 1e-6, 20, "")


def test_too_few_updates_leave_nothing_behind(place: Path) -> None:
    made = asked(place, epochs=1, update_tokens=4000)
    with pytest.raises(PlanError, match="needs 20 updates"):
        rate_range(parse(made), yaml.safe_dump(made), place / "few", Silent())
    assert not (place / "few").exists()


def test_one_that_is_stopped_leaves_nothing_and_says_how_to_start_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*said: Any) -> None:
        raise KeyboardInterrupt

    (place / "recipe.yaml").write_text(yaml.safe_dump(asked(place)))
    monkeypatch.setattr(Heard, "__call__", stopped)
    said = typed(["sweep", str(place / "recipe.yaml"), "--range", "--out", str(place / "stopped")])
    assert "the same command starts again" in " ".join(said.text.split())
    assert said.code == 75
    assert not (place / "stopped").exists()


def test_of_pairs_no_dev_row_is_looked_at(tmp_path: Path) -> None:
    """Training compares with what the base says of each pair; mutant: of those of dev as well."""
    made = tiny_runs.settings(tiny_runs.model_folder(tmp_path / "model"), tmp_path / "pairs.jsonl", epochs=20)
    rows = [{"prompt": f"fox {k}?", "chosen": "the fox", "rejected": "the dog"} for k in range(40)]
    tiny_runs.written(tmp_path / "pairs.jsonl", rows)
    rate_range(parse(made), yaml.safe_dump(made), tmp_path / "found", Silent())
    [kept] = (tmp_path / "found").glob("reference*")
    ids = {name.rpartition("#")[0] or name for name in json.loads(kept.read_text())["nats"]}
    assert len(ids) == 24  # of 40, of which 5 are dev and 11 test


@pytest.mark.parametrize(
    "option",
    [["--try", "lr=1e-4..1e-3"], ["--trials", "3"], ["--resume"], ["--at-once", "2"], ["--ray-address", "auto"]],
)
def test_options_that_would_do_nothing_are_refused(place: Path, option: list[str]) -> None:
    said = typed(["sweep", str(place / "recipe.yaml"), "--range", *option])
    assert said.code == 2
    assert "does nothing with --range" in " ".join(said.text.split())
