"""Every recipe of examples/recipes is read, and plans on made-up rows that look as its comment says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import tiny
from tests.data import chat
from tests.house.source import ROOT
from tests.runs import tiny_runs

from tunesmith.build import Material, compute, load_base, material
from tunesmith.evals.tasks import KINDS
from tunesmith.fitted import Fitted, fit
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe, parse

RECIPES = sorted((ROOT / "examples" / "recipes").glob("*.yaml"))
METHODS = ("ppo", "online-dpo")  # other ones of a task
DOMAINS = ("customer-service", "legal", "medical", "finance", "underrepresented-language")
TABLE = ROOT / "docs" / "guides" / "tasks.md"
ROW = re.compile(r"^# row: (.*)$", re.M)
NUM = 30
FIXED = {
    "role", "sender", "type", "name", "label", "labels", "sentiment", "region", "target_lang", "source_lang", "answer",
    "tools", "thumbs",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A tiny model whose template knows tools."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = chat.tokenizer("qwen2_5")
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.eos_token_id}
    tiny.build("llama", vocab_size=len(tokenizer), max_position_embeddings=4096, **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    recipe = parse({"model": str(folder)})
    return load_base(recipe, compute(recipe))


def varied(value: Any, n: int) -> Any:
    """Another row of the same shape: its texts and numbers of groups differ."""
    if isinstance(value, dict):
        return {k: v if k in FIXED else varied(v, n) for k, v in value.items()}
    if isinstance(value, list):
        return [varied(v, n) for v in value]
    if isinstance(value, str) and value.startswith("{"):
        return json.dumps(varied(json.loads(value), n))
    return f"{value} {n}" if isinstance(value, str) else value + n if type(value) is int else value


def planned(path: Path, base: Base, folder: Path) -> tuple[Recipe, Material, Fitted]:
    text = path.read_text(encoding="utf-8")
    said = [json.loads(row) for row in ROW.findall(text)]
    recipe = parse(yaml.safe_load(text))
    assert said, f"{path.name} shows no row"
    [name] = recipe.data.train
    data = tiny_runs.written(folder / name, [varied(row, n) for n in range(NUM) for row in said])
    recipe = replace(
        recipe, model=str(base.located.folder),
        data=replace(recipe.data, train=(str(data),), dev_frac=0.2, test_frac=0.3),
        evals=replace(recipe.evals, guards="off"),
    )  # fmt: skip
    if recipe.task.name == "reward":  # opened with another head
        base = load_base(recipe, compute(recipe))
    made = material(recipe, base)
    return recipe, made, fit(recipe, base, made, compute(recipe))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_plans_on_rows_as_it_shows_them(path: Path, base: Base, tmp_path: Path) -> None:
    recipe, made, fitted = planned(path, base, tmp_path)
    assert made.task == recipe.task.name
    assert not made.rejected
    assert not made.train.dropped
    assert made.metric.name == (recipe.task.first or KINDS[made.task].metric)
    assert made.split.test
    assert fitted.feed.num_updates > 0


def test_there_is_one_for_each_task_and_domain() -> None:
    assert {path.stem for path in RECIPES} == {*KINDS, *DOMAINS, *METHODS}
    assert all(path.read_text(encoding="utf-8").startswith("# ") for path in RECIPES)


def test_each_stands_in_the_table_with_its_result_or_without_one() -> None:
    text = TABLE.read_text(encoding="utf-8")
    rows = {m[1]: m[0] for m in re.finditer(r"^\| [^|]+ \|.*?examples/recipes/([a-z-]+)\.yaml.*$", text, re.M)}
    assert set(rows) == {path.stem for path in RECIPES}
    assert [
        name for name, row in rows.items() if not any(w in row for w in ("results.md", "tried.md", "not shown"))
    ] == []


def test_mutant_row_that_is_no_row_of_its_task_is_seen(base: Base, tmp_path: Path) -> None:
    broken = tmp_path / "qa.yaml"
    text = (ROOT / "examples" / "recipes" / "qa.yaml").read_text(encoding="utf-8")
    broken.write_text(text.replace('"question"', '"asked"'), encoding="utf-8")
    with pytest.raises(Exception, match="none that are known"):
        planned(broken, base, tmp_path)
