"""What a run folder holds, read once. A missing file is named, a broken one is an error; nothing is made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.errors import DataError
from tunesmith.report.cases import Case, read_case
from tunesmith.report.rollouts_view import read_last
from tunesmith.report.without import other_of, recipe_in, uses

# file -> what a reader does not learn without it
OPTIONAL = {
    "verdict.json": "whether the tuned model is better: base and tuned were not compared",
    "scores/cases.parquet": "the single cases and their outputs",
    "scores/forms.json": "which forms of the prompt the base model was tried with",
    "metrics.jsonl": "how training went: loss, learning rate, speed",
    "audit.json": "what was found in the data",
    "cost.json": "what the run cost in time and memory",
    "plan.json": "how the plan was resolved, and why",
    "lock.json": "hashes of data, model, code and packages",
    "recipe.yaml": "the recipe as written",
    "export.json": "whether the exported files were checked against the model that was measured",
}

VERDICT_NEEDS = ("decision", "metric", "base", "tuned", "effect", "interval")


@dataclass(frozen=True, slots=True)
class Missing:
    file: str
    means: str  # what a reader does not learn without it


@dataclass(frozen=True, slots=True)
class Beside:
    """A run in a folder beside this one."""

    name: str
    verdict: Mapping[str, Any]
    cases: tuple[Case, ...] | None


@dataclass(frozen=True, slots=True)
class Facts:
    """A run folder's files as plain records; None: the file is not there."""

    name: str
    recipe: str | None
    plan: Mapping[str, Any] | None
    lock: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    verdict: Mapping[str, Any] | None
    cost: Mapping[str, Any] | None
    export: Mapping[str, Any] | None
    forms: tuple[Mapping[str, Any], ...] | None
    metrics: tuple[Mapping[str, Any], ...] | None
    watched: tuple[Mapping[str, Any], ...] | None  # answers to a few fixed prompts while training went on
    sampled: tuple[str, tuple[Mapping[str, Any], ...]] | None  # the last replies that were learned from, and where
    calibration: Mapping[str, Any] | None  # where answers are labels
    serving: Mapping[str, Any] | None  # task, labels and instruction, as the run answers
    robustness: Mapping[str, Any] | None  # how far the verdict holds
    context: Mapping[str, Any] | None  # what a longer context is worth
    average: Mapping[str, Any] | None  # the weights between tuned model and base, and which of them are the run's
    understanding: Mapping[str, Any] | None  # what the cases are about, and which layers moved
    explained: Mapping[str, Mapping[str, Any]]  # example id -> why the tuned model answered as it did
    lineage: Mapping[str, Any] | None  # against the run that it goes on from
    gates: tuple[Mapping[str, Any], ...] | None  # what the recipe demands, and whether it is met
    cases: tuple[Case, ...] | None
    missing: tuple[Missing, ...]
    uses_synthetic: bool = True  # data.synthetic: whether rows that a model wrote are learned from
    without: Beside | None = None  # the same run where that is otherwise

    @property
    def layout(self) -> str:
        """Of the model; "" where plan.json does not say it."""
        found = (self.plan or {}).get("layout")
        return str(found.get("layout") or "") if isinstance(found, Mapping) else ""

    @property
    def opened_as(self) -> str:
        """What decides how a library opens and asks it: the layout, or "scores" of a reward model."""
        return "scores" if (self.plan or {}).get("task") == "reward" else self.layout

    @property
    def by_head(self) -> bool:
        """Whether the model gives classes by a head and writes nothing."""
        return self.layout == "rows"


@dataclass(frozen=True, slots=True)
class StartingModel:
    """What plan.json and lock.json say of the base model; "" = not said."""

    name: str = ""
    base_model: str = ""  # its name on the hub
    licence: str = ""
    note: str = ""  # what a reader of results must know of its weights
    digest: str = ""


def read(folder: Path) -> Facts:
    """The facts of a run folder. Raises DataError where a file that is there cannot be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder; wanted the folder of a run. `tunesmith runs` lists those on this machine."
        )
    missing = [Missing(file, means) for file, means in OPTIONAL.items() if not (folder / file).is_file()]
    if len(missing) == len(OPTIONAL):
        raise DataError(
            f"{folder} holds none of the files of a run ({', '.join(list(OPTIONAL)[:3])} …). "
            "Name the folder that `tunesmith run --out` wrote."
        )
    metrics, half = read_lines(folder / "metrics.jsonl")
    if half:
        missing.append(
            Missing("metrics.jsonl, last line", "the last update: the line is half-written, as when a run is killed")
        )
    watched, half = read_lines(folder / "watched.jsonl")
    if half:
        missing.append(Missing("watched.jsonl, last line", "one answer to a watched prompt: the line is half-written"))
    verdict = read_verdict(folder / "verdict.json")
    return Facts(
        name=str((verdict or {}).get("run") or folder.resolve().name),
        recipe=read_text(folder / "recipe.yaml"),
        plan=read_mapping(folder / "plan.json"),
        lock=read_mapping(folder / "lock.json"),
        audit=read_mapping(folder / "audit.json"),
        verdict=verdict,
        cost=read_mapping(folder / "cost.json"),
        export=read_mapping(folder / "export.json"),
        forms=read_rows(folder / "scores" / "forms.json"),
        metrics=metrics,
        watched=watched,
        sampled=read_last(folder),
        calibration=read_mapping(folder / "calibration.json"),
        serving=read_mapping(folder / "serving.json"),
        robustness=read_mapping(folder / "robustness.json"),
        context=read_mapping(folder / "scores" / "context.json"),
        average=read_mapping(folder / "average.json"),
        understanding=read_mapping(folder / "understanding.json"),
        explained=read_explained(folder / "explained"),
        lineage=read_mapping(folder / "lineage.json"),
        gates=read_rows(folder / "gates.json"),
        cases=read_cases(folder / "scores" / "cases.parquet"),
        missing=tuple(missing),
        uses_synthetic=uses(recipe_in(folder)),
        without=read_without(folder),
    )


def read_without(folder: Path) -> Beside | None:
    """The run beside it that learned with, or without, rows that a model wrote."""
    there = other_of(folder)
    found = None if there is None else read_verdict(there / "verdict.json")
    if there is None or found is None:
        return None
    return Beside(there.name, found, read_cases(there / "scores" / "cases.parquet"))


def base_model(facts: Facts) -> StartingModel:
    """From plan.json's "model" (a name, or name, base_model, licence and note) and lock.json's (name and digest)."""
    said = (facts.plan or {}).get("model") or {}
    if isinstance(said, str):
        said = {"name": said}
    locked = (facts.lock or {}).get("model") or {}
    both = {**{k: v for k, v in locked.items() if v}, **{k: v for k, v in said.items() if v}}
    return StartingModel(
        **{key: str(both.get(key) or "") for key in ("name", "base_model", "licence", "note", "digest")}
    )


def read_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); wanted the file as the run wrote it."
        ) from error


def parse(path: Path) -> Any:
    text = read_text(path)
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno} is not JSON: {error.msg}. It was cut or edited; restore it, or remove it "
            "and the report says that it is missing."
        ) from error


def read_mapping(path: Path) -> Mapping[str, Any] | None:
    found = parse(path)
    if found is not None and not isinstance(found, dict):
        raise DataError(f"{path} holds a {type(found).__name__}; wanted an object, as `tunesmith run` writes it.")
    return found


def read_verdict(path: Path) -> Mapping[str, Any] | None:
    found = read_mapping(path)
    if found is not None and (lacks := [key for key in VERDICT_NEEDS if found.get(key) is None]):
        raise DataError(
            f"{path} lacks {', '.join(lacks)}; wanted a verdict as `tunesmith run` writes it. Run the comparison again."
        )
    return found


def read_explained(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    found = [read_mapping(path) for path in sorted(folder.glob("*.json"))]
    return {str(row["example_id"]): row for row in found if row is not None}


def read_rows(path: Path) -> tuple[Mapping[str, Any], ...] | None:
    found = parse(path)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise DataError(f"{path} is not a list of objects; wanted rows as `tunesmith run` writes them.")
    return tuple(found)


def read_lines(path: Path) -> tuple[tuple[Mapping[str, Any], ...] | None, bool]:
    """The rows, and whether the last line was half-written (no line end and no JSON: a run that was killed)."""
    text = read_text(path)
    if text is None:
        return None, False
    lines = text.split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                return tuple(rows), True
            raise DataError(
                f"{path} line {number} is not JSON: {error.msg}. Restore the file, or remove this line."
            ) from error
    return tuple(rows), False


def read_cases(path: Path) -> tuple[Case, ...] | None:
    if not path.is_file():
        return None
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is not a Parquet file that can be read ({error}); run the evaluation again."
        ) from error
    return tuple(read_case(row) for row in rows)
