"""The runs under a folder, each told from its own files: what it was, how far it came, what it found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from tunesmith import lineage
from tunesmith.errors import DataError, InputError
from tunesmith.files import sha256_text
from tunesmith.folder import METRICS, PROCESS, this_process
from tunesmith.plain_yaml import load_yaml
from tunesmith.report.facts import read_lines, read_mapping, read_verdict
from tunesmith.store.rows import Run, Score, is_sound

MARKS = ("lock.json", "plan.json", "verdict.json", "cost.json", "audit.json")  # one of them stands beside the recipe
DEPTH = 3  # folders below the one that is looked through
STAGES = ("prepare", "rehearsal", "baseline", "train", "evaluate", "guards", "export", "the verdict")
ORDERS = ("when", "effect", "cost", "name", "state")


def find(folder: Path, order: str = "when", reader: Callable[[Path], Run] | None = None) -> list[Run]:
    """The runs in this folder or below it. `order`: one of ORDERS; the newest, largest or first name comes first."""
    if order not in ORDERS:
        raise InputError(f"--sort {order}: wanted one of {', '.join(ORDERS)}")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; runs are under runs/ unless `tunesmith run --out` said otherwise")
    found = [(reader or read)(path) for path in sorted(folders(folder))]
    by: dict[str, Any] = {
        "when": lambda r: r.when,
        "effect": lambda r: -9e9 if r.effect is None else r.effect,
        "cost": lambda r: r.total_s or 0.0,
        "name": lambda r: r.folder,
        "state": lambda r: r.state,
    }
    return sorted(found, key=by[order], reverse=order in ("when", "effect", "cost"))


def folders(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """A run's own folder is not looked into."""
    if is_run(folder):
        yield folder
    elif depth:
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.name.startswith("."):
                yield from folders(inner, depth - 1)


def is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").is_file() and any((folder / name).is_file() for name in MARKS)


def read(folder: Path) -> Run:
    """What the folder's files say. One that cannot be read is a line too: state "unreadable", with why."""
    try:
        run = told(folder)
        if is_sound(run):
            return run
        why = "its files are not those of a run: a value is of another kind than tunesmith writes"
    except (DataError, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        why = " ".join(str(error).split())
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape than we write
        why = f"its files are not those of a run ({type(error).__name__}: {error})"
    return Run(str(folder), last_written(folder), "", "", "", "unreadable", why)


def told(folder: Path) -> Run:
    text = (folder / "recipe.yaml").read_text(encoding="utf-8")
    recipe, who = load_yaml(text) or {}, lineage.told(folder)
    plan, lock, cost = (read_mapping(folder / f"{name}.json") or {} for name in ("plan", "lock", "cost"))
    verdict = read_verdict(folder / "verdict.json")
    rows, _ = read_lines(folder / METRICS)
    made = max((r["update"] for r in rows or () if "loss" in r), default=0)
    updates = (made, plan.get("updates"))
    state, where = state_of(folder, verdict is not None, cost.get("stages") or [], updates, due(recipe, plan))
    found = verdict or {}
    parent = who["parent"]
    return Run(
        folder=str(folder),
        when=last_written(folder),
        model=str((lock.get("model") or {}).get("name") or recipe.get("model") or ""),
        data=data_of(recipe, lock),
        task=str(found.get("task") or plan.get("task") or (recipe.get("task") or {}).get("name") or ""),
        state=state,
        where=where,
        decision=found.get("decision"),
        metric=found.get("metric"),
        effect=number(found.get("effect")),
        interval=interval_of(found),
        num_cases=found.get("num_cases"),
        total_s=number(cost.get("total_s")),
        peak_gib=number(cost.get("peak_gib")),
        updates=updates,
        claim=found.get("claim"),
        scores=tuple(scores_of(found)),
        earlier_looks=None if found.get("openings") is None else len(found["openings"]),
        id=str(who["id"]),
        parent=str(parent.get("name", "")),
        parent_id=str(parent.get("id", "")),
        recipe_digest=sha256_text(text),
        data_digest=sha256_text("\n".join(sorted(lock["data"].values()))) if lock.get("data") else "",
        test_digest=str((found.get("digests") or {}).get("test_cases", "")),
        base_digest=str((lock.get("model") or {}).get("digest", "")),
        tuned_digest=str((found.get("digests") or {}).get("tuned", "")),
    )


def number(value: Any) -> float | None:
    return None if value is None else float(value)


def interval_of(found: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = found.get("interval") or (None, None)
    return None if low is None or high is None else (float(low), float(high))


def scores_of(verdict: Mapping[str, Any]) -> Iterator[Score]:
    """The claims, then what stands beside them."""
    beside = [{**row, "metric": name} for name, row in (verdict.get("secondary") or {}).items()]
    for row in (*(verdict.get("claims") or ()), *beside):
        low, high = interval_of(row) or (None, None)
        base, tuned, effect = (number(row.get(name)) for name in ("base", "tuned", "effect"))
        yield Score(str(row["metric"]), base, tuned, effect, low, high, row.get("decision"))


def data_of(recipe: Mapping[str, Any], lock: Mapping[str, Any]) -> str:
    """The names of the training files, without their folders."""
    said = (recipe.get("data") or {}).get("train") or list(lock.get("data") or {})
    return ", ".join(Path(name).name for name in ([said] if isinstance(said, str) else said))


def due(recipe: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Of STAGES: those that a run of this recipe and plan has."""
    train, evals = (recipe.get(part) or {} for part in ("train", "evals"))
    foretold = (plan.get("seconds") or {}).get("stages") or {"rehearsal": 0}
    said = {"rehearsal": train.get("rehearsal", True) and "rehearsal" in foretold, "guards": evals.get("guards")}
    return [name for name in STAGES if said.get(name) not in (False, "off")]


def state_of(
    folder: Path, is_finished: bool, stages: list[Mapping[str, Any]], updates: tuple[int, int | None], wanted: list[str]
) -> tuple[str, str]:
    """(state, how far it came). A run has failed where its last stage ended with an error that no signal was."""
    if is_finished:
        return "finished", ""
    stopped_by = str(stages[-1].get("stopped_by", "")) if stages else ""
    process = folder / PROCESS
    done = [s["name"] for s in stages if "stopped_by" not in s]
    is_trained = not stopped_by and done[-1:] == ["export"] and "baseline" not in done  # `tunesmith train`
    is_over = (stopped_by or is_trained) and process.is_file() and newer(folder / "cost.json", process)
    if not is_over and is_alive(read_mapping(process)):  # a resume is on
        return "running", progress(stages, updates, wanted, is_on=True)
    if is_trained:
        return "trained", "not measured"
    if stopped_by and not re.match(r"(Interrupted|KeyboardInterrupt|SystemExit)\b", stopped_by):
        return "failed", f"in {stages[-1]['name']}: {' '.join(stopped_by.split(': ', 1)[-1].split())}"
    return "interrupted", progress(stages, updates, wanted, is_on=False)


def progress(
    stages: list[Mapping[str, Any]], updates: tuple[int, int | None], wanted: list[str], *, is_on: bool
) -> str:
    """The stage it was in, and in training the update. `wanted`: the stages of this run."""
    done = [wanted.index(s["name"]) for s in stages if "stopped_by" not in s and s["name"] in wanted[:-1]]
    stage = wanted[max(done, default=-1) + 1]
    made, planned = updates
    if stage == "train" and planned:
        return f"at update {made} of {planned}"
    return f"in {stage}" if is_on or stage == STAGES[0] else f"before the end of {stage}"


def newer(one: Path, other: Path) -> bool:
    return one.stat().st_mtime_ns >= other.stat().st_mtime_ns


def is_alive(process: Mapping[str, Any] | None) -> bool:
    """Whether the process that fills a folder is still there, on this machine."""
    if not process or process.get("host") != this_process()["host"]:
        return False
    try:
        return abs(psutil.Process(process["pid"]).create_time() - process["began_s"]) < 1
    except psutil.Error:
        return False


def last_written(folder: Path) -> str:
    """Of the run's own small files, not of what an export or a report adds later."""
    times = [p.stat().st_mtime for name in (*MARKS, METRICS, "recipe.yaml") if (p := folder / name).is_file()]
    return datetime.fromtimestamp(max(times, default=0.0)).strftime("%Y-%m-%d %H:%M")
