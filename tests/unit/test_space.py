"""What a sweep may try: lists and ranges, short names, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.errors import RecipeError
from tunesmith.recipe import known_keys, parse
from tunesmith.space import Dimension, dimension, dimensions, full_key, tried, usual


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lr=1e-5..1e-3", ("lr", "1e-5..1e-3")),
        ("adapt.rank=8,16,64", ("adapt.rank", [8, 16, 64])),
        ("adapt.targets=[[q_proj], [q_proj, v_proj]]", ("adapt.targets", [["q_proj"], ["q_proj", "v_proj"]])),
    ],
)
def test_what_the_command_line_says(text: str, wanted: Any) -> None:
    assert tried(text) == wanted


def test_ranges_and_lists() -> None:
    rate = dimension("train.lr", "1e-5..1e-3")
    assert (rate.low, rate.high, rate.is_whole, rate.is_log) == (1e-5, 1e-3, False, True)
    assert rate.value(0.000123456) == 0.000123
    assert dimension("adapt.rank", "4..64").is_whole
    assert not dimension("regularise.kl", "0..0.5").is_log  # 0 has no factor
    assert dimension("train.epochs", [1, 2, 3]) == Dimension("train.epochs", (1, 2, 3))
    assert dimension("train.epochs", "2..5").num_values == 4
    assert dimension("adapt.targets", [["a"], ["a", "b"]]).holds(("a", "b"))


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        ("lr", "1e-3..1e-5", "from less to more"),
        ("lr", "1e-5..much", "'much' is no number"),
        ("lr", [1e-4], "two values or more"),
        ("lr", [1e-4, 1e-4], "each once"),
        ("lr", ["1e-4", 0.0001], "each once"),
        ("lr", 1e-4, "two values or more"),
        ("rate", [1, 2], "no recipe has a key rate"),
        ("data.max_tokens", [256, 512], "would change what is asked"),
        ("seed", [0, 1], "would change what is asked"),
        ("micro_tokens", [256, 512], "sweep: no recipe"),
        ("train.micro_tokens", [256, 512], "changes no result"),
        ("kind", ["linear", "cosine"], None),
        ("every", [1, 2], None),
    ],
)
def test_what_is_refused(name: str, said: Any, words: str | None) -> None:
    if words is None:
        assert full_key(name, known_keys()).startswith("train.")
        return
    with pytest.raises(RecipeError, match=words):
        dimensions({name: said}, known_keys())


def test_one_key_under_two_names_is_refused() -> None:
    with pytest.raises(RecipeError, match="twice"):
        dimensions({"lr": [1e-4, 2e-4], "train.lr": [1e-4, 3e-4]}, known_keys())


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"minutes": 0}, {"tried": -1}, {"on": "test"}, {"prune": "always"}])
def test_a_budget_that_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"sweep\."):
        parse({"sweep": wrong})


def test_the_usual_space_has_the_rate_that_a_run_would_take_in_its_middle() -> None:
    rate, epochs, rank = usual("lora", 4e-4, 2)
    assert (rate.low * rate.high) ** 0.5 == pytest.approx(4e-4)
    assert (epochs.choices, rank.key) == ((1, 2, 3, 4), "adapt.rank")
    assert [d.key for d in usual("full", 1e-4, 1)] == ["train.lr", "train.epochs"]
