"""docs/methods/index.md has each method with its recipe line, code, tests, and what the plan refuses beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from tests.house.source import ROOT
from tests.laws.sessions import base_of

from tunesmith import classes, method, unasked
from tunesmith.errors import PlanError, RecipeError
from tunesmith.models.load import Base
from tunesmith.recipe import parse

FOLDER = ROOT / "docs" / "methods"
PAGE = FOLDER / "index.md"
ROW = re.compile(r"^\| \[([^\]]+)\]\(([\w-]+\.md)\) \| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]*) \|$", re.M)
WRITES_NOTHING = cast(Base, SimpleNamespace(by_head=True, writes=False, is_masked=False, layout="rows"))


@dataclass(frozen=True)
class Method:
    name: str
    page: str
    line: str  # of a recipe
    code: tuple[str, ...]
    tests: tuple[str, ...]
    refused: str  # as the table says it

    @property
    def settings(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.line))


def named(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def methods(text: str) -> list[Method]:
    return [
        Method(n, p, line, named(code), named(tests), no.strip()) for n, p, line, code, tests, no in ROW.findall(text)
    ]


@pytest.fixture(scope="module")
def base() -> Base:
    return base_of()


def joined(one: Any, other: Any) -> Any:
    """Both settings; None where they say one key differently, and so cannot stand in one recipe."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one if one == other else None
    both = {key: joined(one[key], other[key]) for key in one.keys() & other.keys()}
    return None if None in both.values() else {**one, **other, **both}


def is_refused(settings: dict[str, Any], base: Base) -> bool:
    """By what looks at a recipe before a run: with labels, a dev split, and a model that takes the forest layout."""
    try:
        recipe = parse(settings)
        if recipe.task.name in ("pretrain", "preferences", "feedback", "reward", "reinforce"):
            unasked.refuse(recipe, recipe.task.name)
        if recipe.task.by == "head" or recipe.task.name == "reward":
            classes.refuse(recipe, WRITES_NOTHING, None)
        method.refuse(recipe, base, is_labelled=True, has_dev=True)
    except (PlanError, RecipeError):
        return True
    return False


def refusals(rows: list[Method], base: Base) -> dict[str, str]:
    """Of each method the cell under "not with"."""
    found: dict[str, list[str]] = {row.name: [] for row in rows}
    for one, other in combinations(rows, 2):
        both = joined(one.settings, other.settings)
        if both is not None and is_refused(both, base):
            found[one.name].append(other.name)
            found[other.name].append(one.name)
    return {name: ", ".join(sorted(others, key=str.lower)) for name, others in found.items()}


@pytest.fixture(scope="module")
def wanted(base: Base) -> dict[str, str]:
    return refusals(methods(PAGE.read_text(encoding="utf-8")), base)


def stale(text: str, wanted: dict[str, str]) -> list[str]:
    return [f"{row.name}: not with {wanted[row.name]}" for row in methods(text) if row.refused != wanted[row.name]]


def test_every_page_has_its_rows_and_what_they_name_is_there(base: Base) -> None:
    rows = methods(PAGE.read_text(encoding="utf-8"))
    assert {row.page for row in rows} == {p.name for p in FOLDER.glob("*.md")} - {"index.md", "tried.md"}
    assert len({row.name for row in rows}) == len(rows) > 25
    for row in rows:
        gone = [f for f in row.code if not (ROOT / "src" / "tunesmith" / f).is_file()]
        gone += [f for f in row.tests if not (ROOT / "tests" / f).is_file()]
        assert row.code, row.name
        assert row.tests, row.name
        assert gone == [], row.name
        assert not is_refused(row.settings, base), row.name
        page = (FOLDER / row.page).read_text(encoding="utf-8")
        assert [key for key in re.findall(r"(\w+):", row.line) if key not in page] == [], row.name


def test_what_the_plan_refuses_is_what_the_table_says(wanted: dict[str, str]) -> None:
    assert stale(PAGE.read_text(encoding="utf-8"), wanted) == [], "put this into the last column"
    assert sum(map(bool, wanted.values())) > 15  # a check that refuses nothing would agree with an empty column


def test_mutant_a_refusal_that_is_left_out_or_made_up_is_found(wanted: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    cell = next(row.refused for row in methods(text) if row.name == "R-Drop")
    assert "supervised contrastive loss" in cell
    assert stale(text.replace(f"| {cell} |", "|  |"), wanted)
    assert stale(text.replace(f"| {cell} |", f"| {cell}, KL to the base |"), wanted)
