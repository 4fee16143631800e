"""A reward tried on a file of outputs, before anything is trained: what it gives, how it spreads, where it fails."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import recipe as recipes
from tunesmith.data.columns import Columns, content_of, tests_of
from tunesmith.data.rows import Rejected, Row, rows
from tunesmith.data.turns import as_text, is_messages, messages_of
from tunesmith.data.write import check_name, write_rows
from tunesmith.errors import DataError, InputError
from tunesmith.folder import Teller
from tunesmith.recipe import Recipe
from tunesmith.rollouts.rewards import Means, Summed, make_reward
from tunesmith.types import Attempt, Example, Grade, Label, Message, Reply, Target, Task

OUTPUTS = ("output", "predicted answer", "completion", "response", "answer")  # the first that a file has
ADDED = (
    "confidence",
    "probability",
    "unsure",
    "cut",
    "reward",
    "problem",
)  # by `tunesmith predict`, with or without "predicted"
LAST = "answer"  # as likely a fact as an output: messages that end with the assistant's come before it
BATCH = 64
CHARS = 4  # a token, where the file does not say how many there are
SHOWN = 3  # of the worst and of the best


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user may say about it."""

    output: str | None = None  # the column; None: the first of OUTPUTS, or the last turn of messages
    kept: Path | None = None  # answers of judges


@dataclass(frozen=True, slots=True)
class Tried:
    """One row with its grade."""

    line: int
    row: Row
    attempt: Attempt
    grade: Grade


def recipe_of(path: Path, overrides: Mapping[str, Any]) -> Recipe:
    """Of a recipe, or of a JSON file that holds one of OpenAI's grader objects."""
    said = dict(overrides)
    if path.suffix.lower() == ".json":
        said = {"reward": [{"kind": "openai", "name": "grader", "grader": str(path)}], **said}
    found, _ = recipes.read(None if path.suffix.lower() == ".json" else path, said)
    if not found.reward:
        raise InputError(f"{path} has no reward: a list of parts, such as reward: [{{kind: numeric}}]")
    return found


def grade_file(recipe: Recipe, source: Path, asked: Asked, tell: Teller) -> tuple[list[Tried], dict[str, Any]]:
    """Every row with its grade, and what is said of all of them."""
    reward = make_reward(recipe.reward, Means(recipe.evals.code.trust_local_code, asked.kept))
    given, left_out = attempts_in(source, recipe.data, asked.output)
    if not given:
        raise DataError(f"{source}: none of its rows has an output to grade ({left_out} left out)")
    tell.say(f"{source}: {len(given)} outputs" + (f", {left_out} rows left out" if left_out else ""))
    began, found = time.monotonic(), list[Tried]()
    for start in range(0, len(given), BATCH):
        batch = given[start : start + BATCH]
        grades = reward([attempt for _, _, attempt in batch])
        found += [Tried(*one, grade) for one, grade in zip(batch, grades, strict=True)]
        tell.step(len(found), len(given), f"{len(found)} of {len(given)} graded")
    took = time.monotonic() - began
    return found, {**summary(found, reward), "num_left_out": left_out, "seconds": took, "files": dict(reward.files)}


def attempts_in(source: Path, data: recipes.Data, output: str | None) -> tuple[list[tuple[int, Row, Attempt]], int]:
    """(line, row, attempt) of all rows that have an output, and how many have none."""
    found, left_out, column = list[tuple[int, Row, Attempt]](), 0, output
    for item in rows(source, data.reading):
        if isinstance(item, Rejected):
            left_out += 1
            continue
        line, row = item
        column = column or column_of(source, row, data.columns)
        attempt = attempt_of(f"{source.name}:{line}", row, column, data.columns)
        if attempt is None:
            left_out += 1
        else:
            found.append((line, row, attempt))
    return found, left_out


def column_of(source: Path, row: Row, columns: Columns) -> str:
    """Where the outputs are: a column of that name, or messages that end with the assistant."""
    known = {*(columns.facts or ()), columns.reply, columns.label}
    messages = row.get(columns.messages or "messages")
    ends = is_messages(messages) and messages_of(messages, "messages")[-1].role == "assistant"
    named = [name for name in OUTPUTS if name in row and name not in known]
    if ends and named[:1] in ([], [LAST]):
        return columns.messages or "messages"
    if named:
        return named[0]
    raise DataError(
        f"{source}: which column is the output? It has {', '.join(row)}; wanted one called {', '.join(OUTPUTS)}, or "
        "messages that end with the assistant's. Say which: --output COLUMN"
    )


def attempt_of(where: str, row: Row, column: str, columns: Columns) -> Attempt | None:
    """None where the row has no output, as one that `tunesmith predict` had a problem with."""
    value, prompt = row.get(column), prompt_of(row, columns, column)
    if is_messages(value):
        turns = messages_of(value, column)
        value, prompt = (turns[-1].content if turns[-1].role == "assistant" else None), turns[:-1]
    if value is None or added(row, "problem"):
        return None
    text = as_text(value, column)
    tests = tests_of(row, columns if columns.tests else Columns(tests="tests"))
    example = Example(where, prompt, target_of(row, column, columns), source=where, tests=tests)
    num = str(row.get("num_tokens")).removesuffix(".0")  # a table may hold it as a text, or as 12.0
    num_tokens = int(num) if num.isdecimal() else math.ceil(len(text) / CHARS)
    return Attempt(example, text, not is_true(added(row, "cut")), num_tokens)


def added(row: Row, name: str) -> Any:
    return row.get(f"predicted {name}", row.get(name))


def is_true(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes")


def target_of(row: Row, column: str, columns: Columns) -> Target:
    """As a run would read it where the recipe names columns; else every other column is a fact."""
    if columns.facts is None and (columns.reply or columns.label):
        target = content_of(row, columns)[1]
        if isinstance(target, (Reply, Label)):
            return target
    if columns.facts is not None:
        return Task({name: row[name] for name in columns.facts if row.get(name) is not None})
    other = {column, "messages", "prompt", "num_tokens", *ADDED, *(f"predicted {name}" for name in ADDED)}
    return Task({name: value for name, value in row.items() if name not in other and value is not None})


def prompt_of(row: Row, columns: Columns, column: str) -> tuple[Message, ...]:
    names = [name for name in (columns.prompt or ("prompt",)) if name in row and name != column]
    if len(names) == 1 and is_messages(row[names[0]]):
        return messages_of(row[names[0]], names[0])
    text = "\n\n".join(as_text(row[name], name) for name in names if row[name] is not None)
    return (Message("user", text),) if text else ()


# What is said of all


def summary(found: Sequence[Tried], reward: Summed) -> dict[str, Any]:
    values = [one.grade.value for one in found]
    order = sorted(range(len(found)), key=lambda k: values[k])
    ungraded = [one for one in found if not one.grade.is_graded]
    groups = groups_of(found)
    return {
        "num_rows": len(found),
        "num_ungraded": len(ungraded),
        "ungraded_why": dict(Counter(one.grade.why for one in ungraded).most_common(SHOWN)),
        "reward": column(values, (reward.low, reward.high)),
        "parts": {
            name: column([one.grade.parts[name] for one in found], ends) for name, ends in reward.part.ends().items()
        },
        "num_groups": len(groups),
        "num_groups_all_equal": sum(max(g) == min(g) for g in groups),
        "with_length": correlation(values, [len(one.attempt.text) for one in found]),
        "worst": [shown(found[k]) for k in order[:SHOWN]],
        "best": [shown(found[k]) for k in reversed(order[-SHOWN:])],
        "all_equal": max(values) == min(values),
    }


def column(values: Sequence[float], ends: tuple[float, float]) -> dict[str, float]:
    """Of one part, or of the whole; `ends`: the least and the most that it can give."""
    low, high = ends
    return {
        "mean": float(np.mean(values)), "sd": float(np.std(values)), "least": min(values), "most": max(values),
        "low": low, "high": high,
        "at_least_frac": float(np.mean([math.isclose(v, low, abs_tol=1e-12) for v in values])),
        "at_most_frac": float(np.mean([math.isclose(v, high, abs_tol=1e-12) for v in values])),
    }  # fmt: skip


def groups_of(found: Sequence[Tried]) -> list[list[float]]:
    """Rewards of the prompts that have several outputs here."""
    groups: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for one in found:
        prompt = tuple((m.role, m.content) for m in one.attempt.example.prompt)
        if prompt:
            groups.setdefault(prompt, []).append(one.grade.value)
    return [values for values in groups.values() if len(values) > 1]


def correlation(values: Sequence[float], lengths: Sequence[int]) -> float | None:
    """Pearson's; None where one of the two does not vary."""
    if max(values) == min(values) or max(lengths) == min(lengths):
        return None
    return float(np.corrcoef(values, lengths)[0, 1])


def shown(one: Tried) -> dict[str, Any]:
    return {"line": one.line, "reward": one.grade.value, "why": one.grade.why, "output": one.attempt.text}


def check_out(out: Path) -> None:
    """Grading may take hours and cost money: asked before it."""
    check_name(out)
    if out.exists():
        raise InputError(f"{out} is there already: name another file, or move this one away")


def write(found: Sequence[Tried], out: Path) -> None:
    """The rows with their grades: `reward`, `reward: PART` and `reward why`, by names that are free."""
    check_out(out)
    names = list(dict.fromkeys(name for one in found for name in one.row))
    mark = "reward"
    while any(name == mark or name.startswith((f"{mark}:", f"{mark} why")) for name in names):
        mark = f"new {mark}"
    parts = list(found[0].grade.parts)
    made = [
        {**one.row, mark: one.grade.value, **{f"{mark}: {p}": one.grade.parts[p] for p in parts},
         f"{mark} why": one.grade.why}
        for one in found
    ]  # fmt: skip
    types = {name: {type(row[name]) for row in made if row.get(name) is not None} for name in [*names, *made[0]]}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(out, made, types)
