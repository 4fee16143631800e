"""Tasks of lm-eval (EleutherAI's evaluation harness) as further guard probes: base and tuned on the same items.

lm-eval builds the prompts and scores the answers; the model that it asks is ours, in memory. What is paired, and when
something is called kept or lost, is as with our own probes.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.errors import PlanError, RecipeError, did_you_mean
from tunesmith.evals.probes import REPLAY, Probe, result
from tunesmith.folder import RunFolder
from tunesmith.offline import forbidden_by
from tunesmith.recipe import Recipe
from tunesmith.types import GuardResult

KEPT = "scores/lm_eval.json"
ROWS = 8  # requests side by side: lm-eval keeps the logits of all their tokens
FEWSHOT_SEED = 1234  # lm-eval's own, so that its command line shows the same examples
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, ImportError)


TASK = Probe("", "", "answer", "does worse on this task", REPLAY)
Scores = Mapping[str, Mapping[str, Sequence[float]]]  # title -> "scores" and "chance" of its items


@dataclass(frozen=True, slots=True)
class Task:
    """A task that was loaded, with its documents. `metric` is what an item's score is."""

    name: str
    version: str
    metric: str
    less_is_better: bool
    docs: tuple[int, ...]  # numbers of the documents that are asked
    loaded: Any  # lm_eval's own

    @property
    def row(self) -> tuple[str, int, str]:
        """Of the plan."""
        return self.title, len(self.docs), "items more for base and tuned each, beside evals.guard_budget_s"

    @property
    def title(self) -> str:
        return f"lm-eval {self.name} {self.version}, {self.metric}"


@cache
def tasks_of(names: tuple[str, ...], most_items: int) -> list[Task]:
    """Every task that these names mean: a group is all its tasks. What cannot be asked here is refused with the way
    out, before anything is trained."""
    if not names:
        return []
    if importlib.util.find_spec("lm_eval") is None:
        raise PlanError(
            "evals.lm_eval names tasks of lm-eval, which is not installed: pip install 'tunesmith[lm-eval]'"
        )
    with quiet():
        from lm_eval.tasks import TaskManager  # seconds to import, for those who ask for it

        own = {n for n in names if n.endswith((".yaml", ".yml"))}
        manager = TaskManager(include_defaults=bool(set(names) - own))
        found: dict[str, Task] = {}
        for name in names:
            refuse_unknown(name, manager, is_file=name in own)
            for loaded in loaded_by(name, manager).values():
                task = task_of(loaded, most_items)
                found[task.title] = task
    return list(found.values())


def refuse_unknown(name: str, manager: Any, *, is_file: bool) -> None:
    if is_file and not Path(name).is_file():
        raise RecipeError(f"evals.lm_eval: there is no file {name}; wanted the YAML file of a task, or a task's name")
    if not is_file and name not in manager.all_tasks:
        hint = did_you_mean(name, manager.all_tasks)
        raise RecipeError(
            f"evals.lm_eval: lm-eval has no task {name!r}; `lm-eval ls tasks` lists all, and a task of your own is "
            f"named by its YAML file.{hint}"
        )


def loaded_by(name: str, manager: Any) -> Mapping[str, Any]:
    """lm_eval's tasks by name, with their documents. PlanError where these are not to be had."""
    try:
        return manager.load([name])["tasks"]
    except UNREADABLE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        switch = forbidden_by()
        way = (
            f"{switch} forbids the network: take it away once, or fetch the data set on a machine with a network and "
            "copy ~/.cache/huggingface"
            if switch
            else "if its data set has to be fetched, that needs a network once; a YAML file with data files of your "
            "own needs none (docs/guards.md)"
        )
        raise PlanError(f"evals.lm_eval: the task {name} cannot be loaded: {first}. {way}") from error


def task_of(loaded: Any, most_items: int) -> Task:
    """What is measured of a task: the first of its metrics that is a mean over items."""
    from lm_eval.api.metrics import mean

    name = str(loaded.config.task)
    if getattr(loaded, "UNSAFE_CODE", False) or getattr(loaded, "MULTIMODAL", False):
        what = "runs programs that the model writes" if getattr(loaded, "UNSAFE_CODE", False) else "needs pictures"
        raise PlanError(f"evals.lm_eval: the task {name} {what}, which is not done here; take it out of the recipe")
    means = [m for m, combine in loaded.aggregation().items() if combine is mean]
    if not means:
        raise PlanError(
            f"evals.lm_eval: the task {name} has no metric that is a mean over its items (it has: "
            f"{', '.join(loaded.aggregation())}), so base and tuned cannot be paired; take it out of the recipe"
        )
    num = len(list(loaded.eval_docs))
    docs = range(num) if num <= most_items else sorted(random.Random(0).sample(range(num), most_items))
    less = not loaded.higher_is_better().get(means[0], True)
    return Task(name, f"v{loaded.VERSION}", means[0], less, tuple(docs), loaded)


def ask(session: Session, who: Who, tasks: Sequence[Task]) -> dict[str, dict[str, list[float]]]:
    """Title -> "scores" of the items, larger is better, and the "chance" of each of being right by luck."""
    with quiet(), session.borrowed(who) as model:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        tokenizer = copy.deepcopy(session.base.tokenizer)  # lm-eval gives it a padding token
        longest = session.base.context_tokens
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=ROWS, max_length=longest, truncation=True)
        for task in tasks:
            if task.loaded.get_config("num_fewshot") is None:
                task.loaded.set_config(key="num_fewshot", value=0)
            task.loaded.set_fewshot_seed(seed=FEWSHOT_SEED)
        found = evaluate(
            lm=lm, task_dict={"tasks": {t.name: t.loaded for t in tasks}}, bootstrap_iters=0, log_samples=True,
            samples={t.name: list(t.docs) for t in tasks},
        )  # fmt: skip
    return {t.title: scores_of(t, found["samples"][t.name]) for t in tasks}


def scores_of(task: Task, logged: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """In the order of the documents, of the first filter that has the metric."""
    rows = [s for s in logged if task.metric in s]
    rows = sorted((s for s in rows if s["filter"] == rows[0]["filter"]), key=lambda s: s["doc_id"])
    sign = -1.0 if task.less_is_better else 1.0
    is_choice = task.loaded.OUTPUT_TYPE == "multiple_choice"
    chances = [1 / len(s["resps"]) if is_choice and len(s["resps"]) > 1 else 0.0 for s in rows]
    return {"scores": [sign * float(s[task.metric]) for s in rows], "chance": chances}


def results(base: Scores, tuned: Scores) -> list[GuardResult]:
    """One result a task, by the rules of the guard probes."""
    found = []
    for title, asked in base.items():
        one, other = list(asked["scores"]), list(tuned[title]["scores"])
        largest = max(map(abs, one + other), default=1.0)
        unit = largest if largest > 1 else 1.0  # points of a hundred, say: the margin is a share of the largest
        is_binary = set(one + other) <= {0.0, 1.0}
        least = sum(asked["chance"]) / max(1, len(one)) if is_binary else None
        probe = replace(TASK, name=title, is_binary=is_binary, least=least)
        made = result(probe, [s / unit for s in one], [s / unit for s in other])
        note = f"{made.note}; in parts of {unit:g}, the largest score".lstrip("; ") if unit > 1 else made.note
        found.append(replace(made, note=note))
    return found


def measure(recipe: Recipe, folder: RunFolder, session: Session, snapshot: Snapshot) -> list[GuardResult]:
    """The tasks of evals.lm_eval under both models; what an earlier sitting asked is not asked again."""
    tasks = tasks_of(recipe.evals.lm_eval, recipe.evals.lm_eval_items)
    if not tasks:
        return []
    kept: dict[str, Any] = folder.read(KEPT) or {}
    for name, who in (("base", None), ("tuned", snapshot)):
        if name not in kept:
            with folder.doing(f"{len(tasks)} tasks of lm-eval: {name}"):
                kept[name] = ask(session, who, tasks)
            folder.write(KEPT, kept)
    return results(kept["base"], kept["tuned"])


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's log and bars: what is shown is our caller's."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
