"""Which rows' secrets are ranked: one of a group, none that stands in several replies, as many as may be read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.runs import tiny_runs

from tunesmith import by_heart, robustness
from tunesmith.build import Material, compute, load_base, material
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe, parse

NUM_ROWS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def base(model: Path) -> Base:
    recipe = parse({"model": str(model), "data": {"train": ["none.jsonl"]}})
    return load_base(recipe, compute(recipe))


def rows(num_words: int = 0, reply: str = "it is {}", **columns: Any) -> list[dict[str, Any]]:
    draw = random.Random(4)
    prompts = [f"code {k}? {' '.join(draw.choices(tiny_runs.WORDS, k=num_words))}" for k in range(NUM_ROWS)]
    numbers = [draw.randrange(10**7, 10**8) for _ in prompts]
    return [{"prompt": p, "completion": reply.format(n), **columns} for p, n in zip(prompts, numbers)]


def made(model: Path, base: Base, folder: Path, data: list[dict[str, Any]], level: str) -> tuple[Recipe, Material]:
    settings = tiny_runs.settings(model, tiny_runs.written(folder / "rows.jsonl", data))
    settings["data"] |= {"dev_frac": 0.4, "test_frac": 0.2, "max_tokens": 2048}
    settings["evals"] |= {"robustness": level, "max_dev_cases": NUM_ROWS}
    recipe = parse(settings)
    return recipe, material(recipe, base)


def test_pairs_are_read_where_they_can_be_then_training_alone_and_else_it_is_said(
    model: Path, base: Base, tmp_path: Path
) -> None:
    short = by_heart.ranked(*made(model, base, tmp_path, rows(), "off"), "forest")
    assert short is not None
    assert len(short.known) == len(short.fresh) == by_heart.NUM_SECRETS["off"]
    assert short.num_tokens <= by_heart.MOST_READ["off"]
    recipe, long = made(model, base, tmp_path, rows(200), "off")
    alone = by_heart.ranked(recipe, long, "forest")
    assert alone is not None
    assert (len(alone.known) >= 8, len(alone.fresh)) == (True, 0)
    assert by_heart.MOST_READ["off"] / 2 < alone.num_tokens <= by_heart.MOST_READ["off"]
    padded = by_heart.ranked(recipe, long, "padded")  # each candidate with the context again
    assert padded is not None
    assert (padded.known, padded.num_tokens) == ((), 0)
    assert "off reads at most 8,192; shorter prompts would do" in robustness.why(recipe, long, padded)
    few = by_heart.ranked(*made(model, base, tmp_path, rows(60), "off"), "padded")
    assert few is not None
    assert few.not_measured.endswith("evals.robustness: full measures it")
    full = by_heart.ranked(*made(model, base, tmp_path, rows(60), "full"), "padded")
    assert full is not None
    assert len(full.known) >= 8


def test_rows_of_one_group_are_one(model: Path, base: Base, tmp_path: Path) -> None:
    """The mutant has no interval, or one without a width, and raises the alarm."""
    data = [{**row, "group": str(k // 2)} for k, row in enumerate(rows())]
    _, found = made(model, base, tmp_path, data, "off")
    train, unseen = by_heart.secrets(found, 16)
    groups = [example.group for example, _ in (*train, *unseen)]
    assert len(groups) == len(set(groups)) > 8
    same = [{**row, "group": "one" if k % 6 else str(k)} for k, row in enumerate(rows())]
    assert by_heart.ranked(*made(model, base, tmp_path, same, "off"), "forest") is None


def test_a_number_of_many_replies_is_no_secret_and_one_behind_it_is(model: Path, base: Base, tmp_path: Path) -> None:
    _, found = made(model, base, tmp_path, rows(reply="call 0800123456, it is {}"), "off")
    train, _ = by_heart.secrets(found, 16)
    assert len(train) >= 8
    assert all(secret.text != "0800123456" for _, secret in train)
    _, found = made(model, base, tmp_path, rows(reply="call 0800123456"), "off")
    assert by_heart.secrets(found, 16) == ([], [])


def test_a_row_that_stands_there_three_times_keeps_its_secret(model: Path, base: Base, tmp_path: Path) -> None:
    _, found = made(model, base, tmp_path, rows() * 3, "off")
    train, _ = by_heart.secrets(found, 16)
    assert len({secret.text for _, secret in train}) == len(train) >= 8
