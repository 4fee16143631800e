"""Whether a finished run is what it says: its files, its inputs, its weights, and the verdict, worked out again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import heritage, measured
from tunesmith.errors import InputError, ModelError
from tunesmith.evals.compare import Cases, Rules, compare
from tunesmith.evals.dialogues import over_turns
from tunesmith.evals.metrics import METRICS, Metric
from tunesmith.evals.score import Answer
from tunesmith.evaluate import digest_of_ids
from tunesmith.files import read_json, sha256_file
from tunesmith.models.catalogue import locate
from tunesmith.models.load import weights_digest
from tunesmith.opened import kept_recipe, kept_run, open_run
from tunesmith.recipe import Recipe, read
from tunesmith.report.cases import Case
from tunesmith.report.facts import read_cases
from tunesmith.sealed import changed

SAME = 1e-9  # relative; another processor may round a sum in another way
# Of verdict.json: what the stored cases alone decide
DECIDED = ("decision", "effect", "interval", "base", "tuned", "p", "test", "num_cases", "smallest_detectable",
           "base_interval", "tuned_interval", "smallest_that_matters")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    passed: bool | None  # None: it could not be looked at
    found: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a run its folder holds."""

    folder: Path
    recipe: Recipe
    lock: dict[str, Any]
    verdict: dict[str, Any]
    cases: tuple[Case, ...]


def verify(folder: Path) -> list[Check]:
    """Every check, each on its own: one that fails says what differs, and stops no other."""
    checks = [looked("files", lambda: files(folder))]
    if checks[0].passed is False and not (folder / "verdict.json").is_file():
        kept_recipe(folder)
    try:
        kept = kept_of(folder)
    except InputError as error:
        return [*checks, Check("what the run says", False, str(error))]
    checks += [looked(f"data: {path}", lambda p=path: data(kept, p)) for path in kept.lock["data"]]  # type: ignore[misc]
    parents = [("parent", parent)] if kept.recipe.parent.run is not None else []
    for name, look in (
        ("base model", base), *parents, ("tuned weights", tuned), ("opens", opens), ("test cases", cases)
    ):  # fmt: skip
        checks.append(looked(name, lambda look=look: look(kept)))  # type: ignore[misc]
    return [*checks, *(looked(name, lambda s=say: s()) for name, say in verdicts(kept))]  # type: ignore[misc]


def looked(name: str, look: Callable[[], tuple[bool | None, str]]) -> Check:
    try:
        passed, found = look()
    except InputError as error:
        passed, found = False, str(error)
    return Check(name, passed, found)


def kept_of(folder: Path) -> Kept:
    recipe, _ = read(kept_recipe(folder), {})
    found = [folder / name for name in ("lock.json", "verdict.json")]
    for path in found:
        if not path.is_file():
            raise InputError(f"{path} is not there: the run was not ended. `tunesmith run --resume --out {folder}`")
    lock, verdict = (read_json(path) for path in found)
    return Kept(folder, recipe, lock, verdict, read_cases(folder / "scores" / "cases.parquet") or ())


def files(folder: Path) -> tuple[bool, str]:
    other, gone, more = changed(folder)
    said = [
        *(f"{name} has other bytes" for name in other), *(f"{name} is gone" for name in gone),
        *(f"{name} was not there" for name in more),
    ]  # fmt: skip
    return not said, "; ".join(said) or "as when the run ended"


def data(kept: Kept, name: str) -> tuple[bool | None, str]:
    path = Path(name)
    if not path.is_file():
        return None, "the file is not here"
    same = sha256_file(path) == kept.lock["data"][name]
    return same, "as it was read" if same else "has other bytes than when it was read"


def base(kept: Kept) -> tuple[bool | None, str]:
    try:
        folder = locate(kept.recipe.model).folder
    except ModelError as error:
        return None, f"not here: {error}"
    found, wanted = weights_digest(folder), kept.lock["model"]["digest"]
    if found != wanted:
        return False, f"its weights have the digest {found[:12]}, the run was made on {wanted[:12]}"
    return True, f"digest {wanted[:12]}"


def parent(kept: Kept) -> tuple[bool | None, str]:
    """The run that it went on from: weights, lock and ledger."""
    return heritage.looked_at(kept.lock.get("parent") or {}, kept.recipe)


def tuned(kept: Kept) -> tuple[bool, str]:
    _, _, weights = kept_run(kept.folder)
    found, wanted = weights_digest(weights), kept.verdict["digests"]["tuned"]
    if found != wanted:
        return False, f"{weights.name} has the digest {found[:12]}, the verdict is about {wanted[:12]}"
    return True, f"digest {wanted[:12]}"


def opens(kept: Kept) -> tuple[bool, str]:
    opened = open_run(kept.folder)
    assert opened.tuned is not None
    bad = [name for name, values in opened.tuned.values.items() if not bool(values.isfinite().all())]
    return not bad, f"{bad[0]} holds NaN or infinite values" if bad else "on its base, all weights finite"


def cases(kept: Kept) -> tuple[bool, str]:
    same = digest_of_ids([case.example_id for case in kept.cases]) == kept.verdict["digests"]["test_cases"]
    return same, f"{len(kept.cases)} held-out cases" + ("" if same else ", others than the verdict is about")


def verdicts(kept: Kept) -> Iterator[tuple[str, Callable[[], tuple[bool | None, str]]]]:
    names = [claim["metric"] for claim in kept.verdict.get("claims") or [kept.verdict]]
    unknown = [name for name in names if name not in METRICS or METRICS[name].needs == "judge"]
    if unknown:
        why = f"{', '.join(unknown)}: a judge or a program of your own gave the numbers, and is not asked again"
        yield "verdict", lambda: (None, why)
        return
    metrics = [METRICS[name] for name in names]
    if any(case.turns for case in kept.cases):
        metrics = list(map(over_turns, metrics))
    yield "scores", lambda: scores(kept, metrics[0])
    yield "verdict", lambda: verdict(kept, metrics)


def outputs(kept: Kept, metric: Metric, who: str) -> list[Any]:
    """What the metric read of each answer; None where it was not measured."""
    if metric.needs == "answer":
        return [case.said(who) for case in kept.cases]
    if metric.name == kept.verdict["metric"]:
        return [case.measured(who) for case in kept.cases]
    return measured.outputs(metric, [Answer.of(row) for row in answers(kept, who)])


def answers(kept: Kept, who: str) -> list[dict[str, Any]]:
    """As they were kept when they were asked for, in the order of the cases."""
    return list(read_json(kept.folder / "scores" / f"{who}.json")["answers"])


def cases_of(kept: Kept, metric: Metric) -> Cases:
    sides = [outputs(kept, metric, who) for who in ("base", "tuned")]
    there = [k for k, pair in enumerate(zip(*sides, strict=True)) if None not in pair]
    groups = [kept.cases[k].group or None for k in there]
    of_base, of_tuned = ([side[k] for k in there] for side in sides)
    wanted = [kept.cases[k].wanted for k in there]
    return Cases(wanted, of_base, of_tuned, groups if any(groups) else None)


def scores(kept: Kept, metric: Metric) -> tuple[bool, str]:
    """Each case's answer as it was kept when it was given, and its score from that and its reference."""
    wrong = []
    for who in ("base", "tuned"):
        for case, row in zip(kept.cases, answers(kept, who), strict=True):
            if row["text"] != (case.base_output if who == "base" else case.tuned_output):
                wrong.append(f"{case.example_id} ({who}): another answer in cases.parquet than in {who}.json")
        for case, said in zip(kept.cases, outputs(kept, metric, who), strict=True):
            stored = case.base_score if who == "base" else case.tuned_score
            again = None if said is None else float(metric.case(said, case.wanted))
            if not is_same(stored, again):
                wrong.append(f"{case.example_id} ({who}): {again} from its answer, {stored} in the file")
    return not wrong, "; ".join(wrong[:3]) or f"{metric.name} of {len(kept.cases)} cases, worked out again"


def verdict(kept: Kept, metrics: list[Metric]) -> tuple[bool, str]:
    """From the stored cases, by the same test."""
    recipe = kept.recipe
    rules = Rules(alpha=recipe.evals.alpha, smallest_that_matters=recipe.task.smallest_that_matters, seed=recipe.seed)
    first, *further = [(cases_of(kept, metric), metric) for metric in metrics]
    again = compare(*first, rules, task=kept.verdict["task"], further=further)
    wrong = [
        f"{key} is {kept.verdict.get(key)} in verdict.json, and {getattr(again, key)} from the cases"
        for key in DECIDED
        if not is_same(kept.verdict.get(key), getattr(again, key))
    ]
    return not wrong, "; ".join(wrong) or f"{again.decision}, worked out again from {again.num_cases} cases"


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=1e-12)
    return bool(one == other)
