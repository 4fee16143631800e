"""The recipe: every choice of a run in one YAML file. It only holds the parts; `build.py` takes it apart."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from tunesmith.data.columns import Columns
from tunesmith.engine.optim import AdamW
from tunesmith.engine.schedule import Schedule
from tunesmith.errors import RecipeError
from tunesmith.models.adapters import Adapt


@dataclass(frozen=True, slots=True)
class Data:
    train: tuple[str, ...] = ()  # files or one folder; `test` and `dev` are found in a folder
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)
    dev_frac: float = 0.1  # of the rows that no file gives to a split
    test_frac: float = 0.1
    max_tokens: int = 1024  # of one example, prompt and reply
    too_long: Literal["drop", "cut"] = "drop"


@dataclass(frozen=True, slots=True)
class Task:
    name: Literal["auto", "classify", "summarise", "translate", "extract", "generate", "chat"] = "auto"
    instruction: str | None = None  # system message of every prompt; null: the task's own, "" for none
    metric: str | None = None  # primary, locked before training; null: the task's own
    smallest_that_matters: float | None = None  # in the metric's unit; null: the metric's own


@dataclass(frozen=True, slots=True)
class Train:
    lr: float | Literal["auto"] = "auto"  # peak
    schedule: Schedule = field(default_factory=Schedule)
    optim: AdamW = field(default_factory=AdamW)
    epochs: int = 2
    max_updates: int | None = None  # null: all of the epochs
    update_tokens: int = 4096  # of an update, before shared prefixes are stored once
    micro_tokens: int = 2048  # of one forest; changes memory and speed, never the gradient
    every_checkpoint: int = 50  # updates
    compile: bool = False  # decoder layers through torch.compile: worth its first minute on long runs


@dataclass(frozen=True, slots=True)
class Evals:
    max_cases: int = 400  # of the test split, drawn by hash
    max_dev_cases: int = 48  # for choosing the base's prompt form and for the dev loss
    few_shot: int = 4  # examples in the base's few-shot form; 0: that form is not tried
    max_new_tokens: int | None = None  # null: from the lengths of the training replies
    rows: int = 48  # decoded side by side
    budget_s: float = 1800.0  # for one model's answers to all cases; past it the run stops, and can be resumed
    alpha: float = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    model: str = "smollm2-135m-instruct"
    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    adapt: Adapt = field(default_factory=Adapt)
    train: Train = field(default_factory=Train)
    evals: Evals = field(default_factory=Evals)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    export: tuple[Literal["adapter", "merged"], ...] = ("adapter", "merged")


ADAPTER = TypeAdapter(Recipe)


def parts_of(kind: Any) -> dict[str, Any]:
    """Field name -> type of a dataclass, its annotations resolved."""
    return typing.get_type_hints(kind)


def as_dataclass(kind: Any) -> type | None:
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def known_keys(kind: type = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key of a recipe."""
    keys = []
    for name, inner in parts_of(kind).items():
        part = as_dataclass(inner)
        keys += known_keys(part, f"{prefix}{name}.") if part else [f"{prefix}{name}"]
    return keys


def refuse_unknown(settings: Any, kind: type = Recipe, prefix: str = "") -> None:
    """Raise RecipeError at the first key that no recipe has, naming the nearest that one has."""
    if not isinstance(settings, dict):
        raise RecipeError(f"{prefix.rstrip('.') or 'the recipe'} is {settings!r}; wanted keys and values")
    hints = parts_of(kind)
    for name, value in settings.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), list(hints), 1, 0.5)
            everywhere = [k for k in known_keys() if k.rsplit(".", 1)[-1] == name]
            meant = f"{prefix}{near[0]}" if near else everywhere[0] if everywhere else None
            hint = f"did you mean {meant}?" if meant else f"known here: {', '.join(hints)}"
            raise RecipeError(f"unknown key {prefix}{name}: {hint}")
        part = as_dataclass(hints[name])
        if part and value is not None:
            refuse_unknown(value, part, f"{prefix}{name}.")


def parse(settings: dict[str, Any]) -> Recipe:
    """A recipe from plain keys and values. Raises RecipeError naming the key, what was found and what was wanted."""
    refuse_unknown(settings)
    try:
        recipe = ADAPTER.validate_python(tuples(settings, Recipe))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(
            str(p) for p in first["loc"] if not isinstance(p, int) and p not in ("float", "literal['auto']")
        )
        raise RecipeError(f"{where} is {first['input']!r}: {first['msg']}") from error
    check(recipe)
    return recipe


def tuples(settings: Any, kind: type) -> Any:
    """One string where a list is wanted is a list of one."""
    out = {}
    for name, value in settings.items():
        hint = parts_of(kind)[name]
        part = as_dataclass(hint)
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        wants_tuple = any(typing.get_origin(o) is tuple for o in options)
        out[name] = (
            tuples(value, part)
            if part and value is not None
            else (value,)
            if wants_tuple and isinstance(value, str)
            else value
        )
        if part and value is None:
            del out[name]
    return out


def check(recipe: Recipe) -> None:
    """What can be said to be wrong without a model or data."""
    t, d, a, e = recipe.train, recipe.data, recipe.adapt, recipe.evals
    above_0 = {
        "train.epochs": t.epochs, "train.update_tokens": t.update_tokens, "train.micro_tokens": t.micro_tokens,
        "train.every_checkpoint": t.every_checkpoint, "data.max_tokens": d.max_tokens, "adapt.rank": a.rank,
        "adapt.last_k": a.last_k, "evals.max_cases": e.max_cases, "evals.max_dev_cases": e.max_dev_cases,
        "evals.rows": e.rows, "evals.budget_s": e.budget_s, "train.lr": 1 if t.lr == "auto" else t.lr,
        "adapt.alpha": a.alpha, "train.max_updates": 1 if t.max_updates is None else t.max_updates,
        "evals.max_new_tokens": 1 if e.max_new_tokens is None else e.max_new_tokens,
    }  # fmt: skip
    for key, value in above_0.items():
        if not value > 0:
            raise RecipeError(f"{key} is {value}; wanted a number above 0")
    fractions = {
        "data.dev_frac": d.dev_frac, "data.test_frac": d.test_frac, "adapt.dropout": a.dropout,
        "train.schedule.warmup_frac": t.schedule.warmup_frac, "train.schedule.end_frac": t.schedule.end_frac,
    }  # fmt: skip
    for key, value in fractions.items():
        if not 0 <= value < 1:
            raise RecipeError(f"{key} is {value}; wanted a fraction from 0 up to (not including) 1")
    if not 0 < e.alpha < 0.5:
        raise RecipeError(f"evals.alpha is {e.alpha}; wanted a level between 0 and 0.5 (0.05 is usual)")


def read(path: Path | None, overrides: dict[str, Any]) -> tuple[Recipe, str]:
    """(recipe, its text as it will be kept) from a YAML file, or from nothing, with dotted overrides on top."""
    settings: Any = {}
    if path is not None:
        if not path.is_file():
            raise RecipeError(f"recipe {path} is not there; `tunesmith run --data FILE` works without one")
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} is not YAML: {str(error).splitlines()[0]}") from error
    for key, value in overrides.items():
        place(settings, key, value)
    return parse(settings), yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def place(settings: Any, dotted: str, value: Any) -> None:
    """Set a.b.c in nested dicts."""
    *parents, last = dotted.split(".")
    for name in parents:
        settings = settings.setdefault(name, {}) if isinstance(settings, dict) else None
        if not isinstance(settings, dict):
            raise RecipeError(f"cannot set {dotted}: {name} is a value, not a group of keys")
    settings[last] = value


def override(text: str) -> tuple[str, Any]:
    """`a.b=c` from the command line; c is read as YAML, so that 3, null and [a, b] mean what they say."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: wanted key=value, such as --set train.epochs=3")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {text}: {value!r} is not a YAML value") from error
