"""Which way processes share the work, what cannot be spread, and what the first of them says is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.laws.sessions import base_of

from tunesmith import parallel
from tunesmith.build import Compute
from tunesmith.crew import logged
from tunesmith.engine.ranks import ALONE, Ranks
from tunesmith.errors import PlanError
from tunesmith.evals.tasks import KINDS
from tunesmith.folder import Silent
from tunesmith.models.adapters import Adapt
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe, parse

TWO = Compute("cpu", "", torch.float32, "", processes=2, beside=2)
MADE: Any = SimpleNamespace(kind=KINDS["chat"], split=SimpleNamespace(train=()))
REFUSED = {
    "adapt.base_bits": {"adapt": {"base_bits": 4}},
    "peft's ia3": {"adapt": {"method": "ia3"}},
    "train.compile": {"train": {"compile": True}},
    "train.unfreeze_groups": {"train": {"unfreeze_groups": 2}},
    "regularise.mixout": {"regularise": {"l2sp": 0.1}},
    "train.average": {"train": {"average": {"ema": 0.9}}},
    "regularise.kl": {"regularise": {"kl": 0.1}},
}


@pytest.fixture(scope="module")
def base() -> Base:
    return base_of()


def recipe_of(way: str = "auto", settings: dict[str, Any] | None = None) -> Recipe:
    found = parse(settings or {})
    return replace(found, train=replace(found.train, parallel=way))  # type: ignore[arg-type]


def ways(base: Base, recipe: Recipe, where: Compute = TWO, kept: dict[str, Any] | None = None) -> list[str]:
    return list(parallel.ways(recipe, base, MADE, where, kept))


def test_all_weights_in_each_come_first_and_what_was_taken_stays(base: Base) -> None:
    assert ways(base, recipe_of()) == ["ddp", "fsdp"]
    assert ways(base, recipe_of("fsdp")) == ["fsdp"]
    assert ways(base, recipe_of("ddp")) == ["ddp"]
    assert ways(base, recipe_of(), kept={"parallel": "fsdp"}) == ["fsdp"]
    assert ways(base, recipe_of(), kept={"parallel": "auto"}) == ["ddp", "fsdp"]  # it began as one process
    alone = replace(TWO, processes=1, beside=1)
    assert ways(base, recipe_of("fsdp"), alone, {"parallel": "fsdp"}) == ["fsdp"]
    assert parallel.row(recipe_of("fsdp"), "fsdp", alone) == []
    [(_, way, why)] = parallel.row(recipe_of("fsdp"), "auto", TWO)
    assert way == "fsdp"
    assert "would not fit with all in each: each trains 1/2 of every tensor" in why


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_spread_is_refused_where_it_is_asked_for(base: Base, key: str) -> None:
    """And passed by where it is not."""
    assert ways(base, recipe_of("auto", REFUSED[key])) == ["ddp"]
    with pytest.raises(PlanError, match=rf"train\.parallel is fsdp, and .*{key}.*Say train\.parallel: ddp"):
        ways(base, recipe_of("fsdp", REFUSED[key]))


def test_a_model_of_several_number_formats_is_refused_where_they_train() -> None:
    mixed = base_of()
    mixed.model.model.norm.to(dtype=torch.bfloat16)
    assert parallel.against(recipe_of(), mixed, MADE) == ""  # LoRA: norms stay as they are
    full = replace(recipe_of(), adapt=Adapt("full"))
    assert "several number formats" in parallel.against(full, mixed, MADE)


def test_what_the_first_process_says_is_kept(tmp_path: Path) -> None:
    """With what it ended by; of one process nothing is, and nothing where it said nothing yet: the folder may be
    another's."""
    with logged(Silent(), ALONE, tmp_path) as tell:
        tell.say("alone")
    two = Ranks()
    two.size = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="early"), logged(Silent(), two, tmp_path):
        raise ValueError("early")
    assert not (tmp_path / "logs").exists()

    def work() -> None:
        with logged(Silent(), two, tmp_path) as tell:
            tell.say("hello")
            tell.step(1, 2, "half")
            tell.updated(1, 2, {"loss": 0.5})
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        work()
    lines = (tmp_path / "logs" / "rank_0.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "hello",
        "update 1 of 2: loss 0.5",
        "ended by ValueError: late",
    ]
