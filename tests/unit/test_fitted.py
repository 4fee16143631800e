"""What is picked fits, the faster choice comes first, and where nothing fits the change that is named would."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import tiny_runs

from tunesmith import plan
from tunesmith.build import Compute, Material, compute, load_base, material
from tunesmith.engine.memory import KEPT
from tunesmith.errors import PlanError
from tunesmith.fitted import FEW_GIB, HOLES, MOST_OVER, fit, holes_gib, kept_gib
from tunesmith.models.here import MEMORY
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe, parse, place

Given = tuple[dict[str, Any], Recipe, Base, Material, Compute]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("fitted")
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
    settings = tiny_runs.settings(
        tiny_runs.model_folder(folder / "model", **shape),
        tiny_runs.reply_file(folder / "rows.jsonl", 90),
        micro_tokens="auto",
    )
    settings["train"]["update_tokens"] = 4096
    settings["evals"]["robustness"] = "off"
    recipe = parse(settings)
    where = compute(recipe)
    base = load_base(recipe, where)
    return settings, recipe, base, material(recipe, base), where


def changed(settings: dict[str, Any], **values: Any) -> Recipe:
    copy = json.loads(json.dumps(settings))
    for key, value in values.items():
        place(copy, key.replace("__", "."), value)
    return parse(copy)


def attempt(
    recipe: Recipe, base: Base, made: Material, where: Compute
) -> tuple[list[tuple[str, str, Any]], float | None]:
    """What is picked in the memory that is free, and a little less memory than that takes; nothing where none fits."""
    try:
        found = fit(recipe, base, made, where)
    except PlanError:
        return [], None
    assert found.footprint is not None
    train = found.recipe.train
    return [(found.freed.word, train.checkpointing, train.micro_tokens)], 0.999 * found.footprint.above_gib


def test_less_memory_means_fewer_tokens_then_layers_run_again_then_slower_memory_then_no(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    _settings, recipe, base, made, where = given
    monkeypatch.setenv(MEMORY, "1000")
    plenty = fit(recipe, base, made, where)
    assert plenty.footprint is not None
    assert plenty.freed == KEPT
    assert (plenty.recipe.train.micro_tokens, plenty.recipe.train.checkpointing) == (2048, "off")
    picked, free = [("kept", "off", 2048)], plenty.footprint.above_gib
    while free is not None:
        monkeypatch.setenv(MEMORY, str(free))
        found, free = attempt(recipe, base, made, where)
        picked += found
    assert picked[1][1:] == ("off", 2048)
    assert picked == list(dict.fromkeys(picked))
    hows = [how for how, *_ in picked]
    assert hows == sorted(hows, key=("kept", "trimmed", "returned").index)
    assert {"trimmed", "returned"} < set(hows)
    for how in set(hows):
        switches = [switch for word, switch, _ in picked if word == how]
        assert switches == sorted(switches, key=("off", "on").index)
    assert ("trimmed", "on") in {one[:2] for one in picked}


def test_where_memory_is_short_holes_are_counted_and_bound_what_is_kept(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than the kept kind may take, and all that the bounded kind needs; then less than that."""
    settings, _, base, made, where = given
    recipe = changed(settings, train__micro_tokens=512, train__checkpointing="off")
    monkeypatch.setenv(MEMORY, "1000")
    plenty = fit(recipe, base, made, where)
    assert plenty.footprint is not None
    monkeypatch.setenv(MEMORY, str(1.001 * plenty.footprint.above_gib))
    bounded = fit(recipe, base, made, where)
    assert bounded.footprint is not None
    monkeypatch.setenv(MEMORY, str(0.999 * bounded.footprint.above_gib))
    tight = fit(recipe, base, made, where)
    assert tight.footprint is not None
    assert [one.freed.word for one in (plenty, bounded, tight)] == ["kept", "trimmed", "returned"]
    assert bounded.freed.most_gib == pytest.approx(MOST_OVER * bounded.footprint.peak_gib)
    for stage, passing in bounded.footprint.passing.items():
        takes = [one.footprint.stages[stage] for one in (plenty, bounded, tight) if one.footprint]
        assert takes[1] - takes[2] == pytest.approx(holes_gib(passing))
        assert takes[0] - takes[1] == pytest.approx(bounded.footprint.copied_gib if stage == "train" else 0)
        assert passing > 0
    assert {"train", "baseline", "evaluate"} <= set(bounded.footprint.passing)


def test_what_kept_memory_may_take_is_said_and_is_the_bound(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    _settings, recipe, base, made, where = given
    monkeypatch.setenv(MEMORY, "1000")
    plenty = fit(recipe, base, made, where)
    assert plenty.footprint is not None
    most, there = kept_gib(plenty.footprint), plenty.footprint.there_gib
    assert most > 1.5 * plenty.footprint.activations_gib + plenty.footprint.above_gib
    why = {row[0]: row[2] for row in plenty.rows}["peak memory"]
    assert abs(float(re.findall(r"may take ([\d.]+) GiB", why)[0]) - there - most) <= 0.051
    for share, word in ((1.001, "kept"), (0.999, "trimmed")):
        monkeypatch.setenv(MEMORY, str(share * most))
        assert fit(recipe, base, made, where).freed.word == word


def test_holes_grow_with_what_comes_and_goes_and_less_behind_the_first() -> None:
    """What was measured (docs/plan.md): GiB of a micro-batch, and of the holes that it left."""
    assert [holes_gib(gib) for gib in (0.0, 0.2, FEW_GIB)] == pytest.approx([0.0, HOLES * 0.2, HOLES * FEW_GIB])
    for passing, measured in ((0.25, 0.08), (0.53, 0.24), (0.58, 0.30), (0.82, 0.20), (1.15, 0.29), (1.61, 0.35)):
        assert abs(holes_gib(passing) - measured) < 0.16
    assert abs(HOLES * 1.61 - 0.35) > 0.4  # the mutant


def test_what_the_recipe_says_is_not_picked(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _, base, made, where = given
    monkeypatch.setenv(MEMORY, "1000")
    recipe = changed(settings, train__micro_tokens=300, train__checkpointing="on")
    found = fit(recipe, base, made, where)
    assert (found.recipe.train.micro_tokens, found.recipe.train.checkpointing) == (300, "on")
    assert ("train.checkpointing", "on", "said in the recipe") in found.rows


def test_the_change_that_a_refusal_names_would_fit(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _, base, made, where = given
    recipe = changed(settings, train__micro_tokens=2048, train__checkpointing="off")
    monkeypatch.setenv(MEMORY, "1000")
    whole = fit(recipe, base, made, where).footprint
    assert whole is not None
    assert whole.largest == "train"
    monkeypatch.setenv(
        MEMORY, str(whole.above_gib - whole.copied_gib - HOLES * whole.passing["train"] - whole.activations_gib / 2)
    )
    with pytest.raises(PlanError, match="too little memory") as refused:
        fit(recipe, base, made, where)
    fitting = re.search(r"--set train.micro_tokens=(\d+) would fit", str(refused.value))
    assert fitting is not None
    fit(changed(settings, train__micro_tokens=int(fitting.group(1)), train__checkpointing="off"), base, made, where)


def test_a_refusal_names_the_stage_that_may_be_left_out(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _, base, made, where = given
    for key, many, none in (("explain_cases", 2000, 0), ("guards", "quick", "off")):
        small = {"train__micro_tokens": 256, "train__update_tokens": 256, "evals__rows": 1}
        values: dict[str, Any] = {**small, "train__checkpointing": "off"}
        recipe = changed(settings, **values, **{f"evals__{key}": many})
        monkeypatch.setenv(MEMORY, "1000")
        whole = fit(recipe, base, made, where).footprint
        assert whole is not None
        stage = key.removesuffix("_cases")
        assert whole.largest == stage
        monkeypatch.setenv(MEMORY, str(0.999 * (whole.above_gib - HOLES * whole.passing.get(stage, 0))))
        with pytest.raises(PlanError, match=f"--set evals.{key}={none} leaves that stage out"):
            fit(recipe, base, made, where)
        fit(changed(settings, **values, **{f"evals__{key}": none}), base, made, where)


def test_cases_are_explained_with_layers_run_again_too(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, _, base, made, where = given
    monkeypatch.setenv(MEMORY, "1000")
    recipe = changed(settings, evals__explain_cases=2)
    took = []
    for switch in ("on", "off"):
        found = fit(recipe, base, made, where, {"micro_tokens": 256, "checkpointing": switch}).footprint
        assert found is not None
        took.append(found.stages["explain"])
    assert took[0] < took[1]


def test_what_was_picked_is_locked_and_kept(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    _settings, recipe, base, made, where = given
    monkeypatch.setenv(MEMORY, "1000")
    first = fit(recipe, base, made, where)
    locked = plan.lock(first.recipe, base, made, where)
    assert locked["fitted"] == {"micro_tokens": 2048, "checkpointing": "off", "parallel": "auto"}
    kept = fit(recipe, base, made, where, {"micro_tokens": 512, "checkpointing": "on"})
    assert (kept.recipe.train.micro_tokens, kept.recipe.train.checkpointing) == (512, "on")
    assert plan.lock(kept.recipe, base, made, where) != locked
    half = compute(recipe, {"precision": "bfloat16"})
    assert half.dtype == torch.bfloat16
    assert "kept" in half.dtype_why


def test_a_model_that_cannot_be_traced_is_said_so(
    given: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, _, _, _, _ = given
    recipe = replace(parse(settings), model=str(tiny_runs.model_folder(tmp_path / "experts", "mixtral")))
    where = compute(recipe)
    base = load_base(recipe, where)
    monkeypatch.setenv(MEMORY, "1000")
    found = fit(recipe, base, material(recipe, base), where)
    assert found.footprint is None
    assert found.facts() is None
    assert "not predicted" in found.rows[0][2]


def test_weights_are_spread_over_the_processes_where_they_fit_only_so(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes of one machine, each with a quarter of its memory; the first one's needs decide."""
    settings, _, base, made, where = given
    four, sizes = replace(where, processes=4, beside=4), {"train__micro_tokens": 256, "train__checkpointing": "on"}

    def fitted(way: str, free: float) -> Any:
        monkeypatch.setenv(MEMORY, str(free))
        recipe = changed(settings, adapt={"method": "full"}, train__parallel=way, **sizes)
        return fit(recipe, base, made, four, measures=False)

    plenty = {way: fitted(way, 1000).footprint for way in ("ddp", "fsdp")}
    # where training waits for its checkpoints, and freed memory goes back
    needed = {way: found.above_gib - found.copied_gib - HOLES * found.passing["train"] for way, found in plenty.items()}
    assert needed["fsdp"] < needed["ddp"]
    between = 4 * (needed["ddp"] + needed["fsdp"]) / 2
    found = fitted("auto", between)
    assert found.recipe.train.parallel == "fsdp"
    assert any(row[:2] == ("train.parallel", "fsdp") and "would not fit" in row[2] for row in found.rows)
    assert fitted("auto", 1000).recipe.train.parallel == "ddp"
    with pytest.raises(PlanError, match="too little memory"):
        fitted("ddp", between)
