"""The plan's guess of a run's time: what it counts. The seconds of a token are the machine's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.runs import tiny_runs

from tunesmith import pace
from tunesmith.build import compute, feed_of, load_base, material
from tunesmith.recipe import parse

LONG = "Read the message of a customer and say with one word what it is about, and nothing else."


def test_a_shared_beginning_is_read_once_and_what_is_off_takes_no_time(tmp_path: Path) -> None:
    data = tiny_runs.reply_file(tmp_path / "rows.jsonl")
    settings = tiny_runs.settings(tiny_runs.model_folder(tmp_path / "model"), data)
    recipe = parse({**settings, "task": {"instruction": LONG}})
    where = compute(recipe)
    base = load_base(recipe, where)
    made = material(recipe, base)
    feed = feed_of(recipe, base, made)
    form = made.forms[0]
    whole = [len(made.renderer.prompt(form.prompt(e, LONG))) for e in made.split.test]
    assert pace.own_tokens(made) < min(whole) - 10  # without the instruction
    assert 0 < pace.stored_frac(feed) < 0.9  # nor is it learned from for each example
    found = pace.of_run(recipe, base, made, feed, 1000)
    assert min(found.train_s, found.answers_s, found.losses_s) > 0
    assert found.guards_s == 0  # off in these settings
    assert found.total_s == pytest.approx(found.train_s + found.answers_s + found.losses_s + found.explaining_s)
    # the seconds of a token cancel: all weights cost half as much again as LoRA, for the same answers
    full = replace(recipe, adapt=replace(recipe.adapt, method="full"))
    other = pace.of_run(full, base, made, feed, 1000)
    assert (other.train_s / other.answers_s) / (found.train_s / found.answers_s) == pytest.approx(1.5)
