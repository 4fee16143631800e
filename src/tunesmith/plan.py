"""What a run will do, every value resolved, with the reasons: plan.json."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch

from tunesmith import (
    classes,
    crew,
    explained,
    guards,
    harness,
    heritage,
    method,
    mixed,
    pace,
    played,
    robustness,
    unasked,
)  # fmt: skip
from tunesmith.build import MOST_COMPARED, Compute, Material, learning_rate, num_updates
from tunesmith.files import code_digest
from tunesmith.fitted import LOCKED, Fitted
from tunesmith.models.load import Base
from tunesmith.power import detectable_effect, shown, wanted_row
from tunesmith.recipe import Recipe
from tunesmith.room import disk_need
from tunesmith.speeds import Speeds

PACKAGES = (
    "tunesmith",
    "torch",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "numpy",
    "scikit-learn",
    "sacrebleu",
    "rouge-score",
)


def make(
    fitted: Fitted, base: Base, made: Material, where: Compute, speeds: Speeds, began_s: float,
    only: Collection[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """plan.json. `began_s`: when all before this began, by the monotonic clock; `only`: the stages that will be."""
    recipe, feed = fitted.recipe, fitted.feed
    disk_gib = disk_need(base.model, recipe.adapt, recipe.export, fitted.num_trained)
    updates = num_updates(recipe, feed)
    lr, lr_why = learning_rate(recipe, base, made.kind, updates)
    shape = feed.shape() | {"num_seen": feed.num_seen(updates)}
    detectable, detectable_why = detectable_effect(recipe, made, made.metric)
    train_tokens = round(shape["tokens"] * updates / shape["updates_per_epoch"])
    job = pace.Job(recipe, base, made, feed, updates, speeds, fitted.num_trained, fitted.freed.is_short,
                   fitted.anew_gib("train"), crew.share(where, base, feed))  # fmt: skip
    times = pace.stages(job, began_s, only)
    total_s = sum(times.values())
    rows = unasked.rows(made.task, made.train, made.renderer, [
        ("layout", base.layout, f"{base.probe.reason} (largest difference {base.probe.largest_diff:.1g})"),
        ("device", where.device, where.device_why), *crew.rows(where, base, feed),
        ("precision", str(where.dtype).removeprefix("torch."), where.dtype_why),
        ("task", made.task, "said in the recipe" if recipe.task.name != "auto" else "from the columns and replies"),
        ("metric", ", ".join(m.name for m in made.primary), "primary; locked before training" + (
            "" if len(made.primary) == 1 else f"; {len(made.primary)} claims, Holm's correction")), *made.means.words,
        ("scoring", made.kind.scoring, "labels by likelihood, texts by generation"),
        *fitted.rows,
        ("disk", f"{disk_gib:.2g} GiB", "of the run folder: exports, checkpoints, report"),
        ("instruction", made.instruction or "(none)", "system message of every prompt, in training and in evaluation"),
        ("adapt", recipe.adapt.method, adapt_why(recipe)), ("train.lr", f"{lr:.2g}", lr_why),
        ("updates", updates, updates_why(recipe, shape, updates)),
        ("update_tokens", recipe.train.update_tokens, "before shared prefixes are stored once"),
        *([] if base.by_head else [("evals.max_new_tokens", made.max_new_tokens, "said in the recipe" if
            recipe.evals.max_new_tokens else "a quarter more than 99 of 100 training replies")]),
        *classes.rows(base, made.labels, made.before), *method.rows(recipe, base, made.kind, made.split.train),
        *heritage.rows(made.before, recipe, made.again), *compared_by_words(len(made.split.train)),
        *mixed.rows(feed.shares(updates)),
        *((("data.replay", recipe.data.replay.share, made.replay.words),) if made.replay.num_rows else ()),
        *([] if only else measured_rows(recipe, base, made, job)),
        ("time", pace.said(total_s), pace.why(times, speeds)), *played.row(made), pace.rehearsed_row(recipe, times),
        ("test cases", len(made.split.test), f"of {made.num_test} test rows; at most evals.max_cases"),
        ("smallest detectable effect", f"{detectable:.3f}", detectable_why),
        *((f"the same, {m.name}", *shown(recipe, made, m)) for m in made.primary[1:]), wanted_row(recipe, made),
    ])  # fmt: skip
    return {
        "model": {
            "name": recipe.model, "base_model": base.located.base_model, "licence": base.located.licence,
            "note": base.located.note,
        },
        "task": made.task,
        "layout": {"layout": base.layout, "largest_diff": base.probe.largest_diff, "reason": base.probe.reason},
        "resolved": [{"key": k, "value": v, "why": w} for k, v, w in rows],
        "updates": updates,
        "train_tokens": train_tokens,
        "seconds": {"all": total_s, "stages": times},
        "speeds": asdict(speeds),
        "smallest_detectable": detectable,
        "lr": lr, "disk_gib": disk_gib, "memory": fitted.facts(), "feed": shape,
        "stages": [{"name": n, "budget_s": b} for n, b in stage_budgets(recipe, made).items()],
    }  # fmt: skip


def measured_rows(recipe: Recipe, base: Base, made: Material, job: pace.Job) -> list[tuple[str, object, str]]:
    """Of what is asked beside the held-out cases; a run that only trains asks nothing."""
    return [
        ("guards", recipe.evals.guards, guards_why(recipe, base, made, job)),
        *(task.row for task in harness.tasks_of(recipe.evals.lm_eval, recipe.evals.lm_eval_items)),
        ("robustness", recipe.evals.robustness, robustness.why(recipe, made, job.ranked)),
        ("evals.explain_cases", recipe.evals.explain_cases, explained.why(recipe.evals)),
    ]


def compared_by_words(num_train: int) -> list[tuple[str, object, str]]:
    """Said where not all training examples are."""
    why = f"of {num_train:,} training examples, drawn by hash of the id: for simple baselines, and to explain cases"
    return [("compared by words", MOST_COMPARED, why)] if num_train > MOST_COMPARED else []


def adapt_why(recipe: Recipe) -> str:
    a = recipe.adapt
    if a.method == "lora":
        kind = "".join(f", {name}" for name, on in (("rsLoRA", a.rslora), ("DoRA", a.dora)) if on)
        return f"rank {a.rank}, alpha {a.alpha:g}{kind}, on {', '.join(a.targets) or 'all linear layers but the head'}"
    if a.is_prompt:
        return "rows that stand before every sequence; they do not begin at the base, which never sees them"
    if a.is_pefts:
        said = ", ".join(f"{k} {v}" for k, v in a.options.items())
        return (
            f"{a.peft or a.method} of peft{', ' if said else ''}{said}; begins at the base, and was tried in a forest"
        )
    if a.method == "named":
        return f"weights named {', '.join(a.names)}"
    return "all weights" if a.method == "full" else f"the last {a.last_k} layers and the final norm"


def updates_why(recipe: Recipe, shape: dict[str, Any], updates: int) -> str:
    """How many there would be, and how much of the data those hold that are made."""
    said = f"{recipe.train.epochs} epochs of {shape['updates_per_epoch']}"
    if updates == shape["num_updates"]:
        return said
    seen = seen_of(shape)
    what = f"only {seen} are seen" if seen else "every example is seen"
    return f"{said} would be {shape['num_updates']}; train.max_updates ends it early: {what}"


def seen_of(shape: dict[str, Any]) -> str:
    """Where training ends before it has seen all examples: how many it sees. "" where it sees all."""
    seen, num = shape["num_seen"], shape["num_examples"]
    return f"{seen:,} of {num:,} training examples" if seen < num else ""


def seen_note(planned: dict[str, Any]) -> str:
    """The same for the verdict, whose reader would take all training rows for learned ones."""
    said = seen_of(planned["feed"])
    early = "training ended early, at train.max_updates: it saw"
    return f"{early} {said}; more updates may change the result." if said else ""


def guards_why(recipe: Recipe, base: Base, made: Material, job: pace.Job) -> str:
    """How long the guard probes take here."""
    level, budget = recipe.evals.guards, recipe.evals.guard_budget_s
    if level == "off":
        return "what the model forgets beside its task is not checked"
    is_kept = guards.kept_at(base, made.renderer, level).is_file()
    about = job.one_guard()
    cut = f", of which evals.guard_budget_s allows {budget:.0f}" if about > budget else ""
    whom = "the tuned model; the base's answers are kept from before" if is_kept else "each of base and tuned"
    return f"about {about:.0f} s{cut}, for {whom}"


def stage_budgets(recipe: Recipe, made: Material) -> dict[str, float | None]:
    """Seconds that evaluation may take; the number of updates, and no clock, ends training."""
    forms = (len(made.forms) if made.split.dev else 0) * recipe.evals.budget_s
    found = {"baseline": forms + recipe.evals.budget_s, "train": None, "evaluate": recipe.evals.budget_s}
    return found | ({"explain": recipe.evals.explain_budget_s} if recipe.evals.explain_cases else {})


def lock(recipe: Recipe, base: Base, made: Material, where: Compute) -> dict[str, Any]:
    """lock.json: what has to be the same for a run to be the same run."""
    return {
        "data": made.files,
        "model": {"name": recipe.model, "digest": base.digest},
        **({} if base.teacher is None else {"teacher": base.teacher.digest}),
        **({} if made.before is None else {"parent": made.before.facts()}),
        "template": made.renderer.digest,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": code_digest(),
        "python": platform.python_version(),
        "metric": {"name": ", ".join(m.name for m in made.primary), **dict(made.means.digests)},
        "seed": recipe.seed,
        "device": where.device,
        "precision": str(where.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **({} if where.processes == 1 else {"processes": where.processes}),
        "layout": base.layout,
        "compiled": recipe.train.compile,
        "fitted": {key: getattr(recipe.train, key) for key in LOCKED},
    }
