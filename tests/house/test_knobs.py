"""No knob that nobody reads: every field of the recipe is read somewhere outside recipe.py."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import typing
from typing import Any

import pytest
from tests.house.source import ROOT, Source, package

RECIPE = "src/tunesmith/recipe.py"


def is_part(kind: Any) -> bool:
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "model_fields"))


def parts_in(annotation: Any) -> list[type]:
    """The dataclasses and pydantic models in an annotation: `A | None`, `list[A]`, `Annotated[A, …]`."""
    if is_part(annotation):
        return [annotation]
    return [part for inner in typing.get_args(annotation) for part in parts_in(inner)]


def fields(record: type) -> dict[str, Any]:
    """Field name -> its annotation, resolved."""
    if dataclasses.is_dataclass(record):
        hints = typing.get_type_hints(record)
        return {field.name: hints[field.name] for field in dataclasses.fields(record)}
    return {name: field.annotation for name, field in record.model_fields.items()}  # type: ignore[attr-defined]


def knobs(record: type, stem: str = "") -> dict[str, str]:
    """Dotted path -> name of every field of a tree of records."""
    found = {}
    for name, annotation in fields(record).items():
        found[f"{stem}{name}"] = name
        for part in parts_in(annotation):
            if part is not record:
                found |= knobs(part, f"{stem}{name}.")
    return found


def reads(sources: list[Source]) -> set[str]:
    """Names that are read as attributes. A name of a keyword argument, a string or an assignment is no read."""
    return {
        node.attr
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def unread(record: type, sources: list[Source]) -> list[str]:
    names = reads(sources)
    return [path for path, name in knobs(record).items() if name not in names]


def test_every_field_of_the_recipe_is_read() -> None:
    assert (ROOT / RECIPE).exists(), f"{RECIPE} with its class Recipe is missing"
    recipe = importlib.import_module("tunesmith.recipe").Recipe
    assert len(knobs(recipe)) > 10, "the fields of Recipe were not found"
    assert unread(recipe, [source for source in package() if source.path != RECIPE]) == []


@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float
    forgotten: float = 0.0


@dataclasses.dataclass(frozen=True)
class Small:
    seed: int
    optim: Optim | None = None
    many: tuple[Optim, ...] = ()


def test_mutant_unread_knob_is_found() -> None:
    text = "def f(recipe):\n    return recipe.seed, recipe.optim.lr, recipe.many"
    assert unread(Small, [Source("src/tunesmith/build.py", text)]) == ["optim.forgotten", "many.forgotten"]
    for no_read in ("x.forgotten = 1", "f(forgotten=1)", "y = 'forgotten'"):
        assert "optim.forgotten" in unread(Small, [Source("a.py", text), Source("b.py", no_read)])
    assert unread(Small, [Source("a.py", text), Source("b.py", "print(x.forgotten)")]) == []


def test_pydantic_records_are_walked_too() -> None:
    pydantic = pytest.importorskip("pydantic")
    inner = pydantic.create_model("Inner", depth=(int, 1))
    outer = pydantic.create_model("Outer", inner=(inner, ...), name=(str, ""))
    assert set(knobs(outer)) == {"inner", "inner.depth", "name"}
