"""Where a task has no answers (a plain text is scored as it stands), all that would ask for some is left out, and said;
what was demanded of them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunesmith.data.ingest import Ingested, infer_task
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Rendered, Renderer
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import without_answer
from tunesmith.errors import InputError, PlanError
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.tasks import KINDS
from tunesmith.recipe import Recipe
from tunesmith.types import Example

MAX_NEW_TOKENS = 256  # of what a model of such a run writes where somebody asks it later; no figure depends on it
# Rows of the plan that would say how answers are asked for
ROWS = ("instruction", "evals.max_new_tokens", "robustness", "evals.explain_cases", "scoring")
IN_CHAT = "`tunesmith chat` shows what it writes, where it is no encoder"
LEFT_OUT = (
    "nothing is asked and nothing is written: no prompt forms or few-shot examples, no watched prompts, no changed "
    "prompts or recited rows (evals.robustness), no explained cases, no calibration, no kinds of error"
)


def is_unasked(task: str) -> bool:
    return KINDS[task].scoring == "text"


def task_of(recipe: Recipe, main: Ingested, ood: Sequence[Example], layout: str) -> str:
    """The task that is said, or told from the rows. PlanError where these are for another one."""
    task = infer_task(main.columns, main) if recipe.task.name == "auto" else recipe.task.name
    odd = next((e for part in (main.examples, ood) for e in Chosen(part, without_answer(part))), None)
    if odd is not None:
        raise PlanError(
            f"{odd.source} is a {type(odd.target).__name__.lower()}; only replies and labels can be learned from yet"
        )
    if is_unasked(task):
        refuse(recipe)
    if is_unasked(task) and layout == "seq2seq" and (recipe.task.name == "auto" or recipe.data.replay.files):
        raise PlanError(
            "the rows are plain texts, from which an encoder-decoder learns by span corruption: say --set "
            "task.name=pretrain, and leave data.replay out, whose rows are not corrupted"
        )
    if is_unasked(task) and main.columns.text is None:
        raise PlanError(
            "task pretrain learns plain text, and the columns were read as prompts with answers. Name the column that "
            "is learned as it is: --set data.columns.text=NAME; or leave task.name out"
        )
    if main.columns.text is not None and not is_unasked(task):
        raise PlanError(
            f"task {task} learns answers, and the rows are plain texts without prompts (column "
            f"{main.columns.text!r}). Say --set task.name=pretrain, or give rows with a prompt and an answer"
        )
    return task


def without_answers(recipe: Recipe) -> Recipe:
    """The recipe with everything off that asks for answers."""
    return replace(
        recipe,
        train=replace(recipe.train, watch=0),
        evals=replace(recipe.evals, few_shot=0, robustness="off", explain_cases=0),
    )


def refuse(recipe: Recipe) -> None:
    """PlanError where the recipe wants of a text what only an answer has."""
    gates = recipe.gates
    wanted = {
        "task.instruction": bool(recipe.task.instruction),
        "train.watch_prompts": bool(recipe.train.watch_prompts),
        "evals.judge": recipe.evals.judge.endpoint is not None,
        "evals.schema": recipe.evals.schema is not None,
        "gates.stopped": gates.stopped is not None,
        "gates.latency_s": gates.latency_s is not None,
        "gates.calibration": gates.calibration is not None,
    }
    for name in recipe.task.metric or ():
        wanted[f"task.metric {name}"] = name not in METRICS or METRICS[name].needs != "likelihood"
    found = [key for key, is_wanted in wanted.items() if is_wanted]
    if found:
        raise PlanError(
            f"{', '.join(found)}: task pretrain learns plain text, which is scored as it stands (bits_per_byte); there "
            "are no prompts and no answers. Leave it out"
        )


def refuse_command(task: str, what: str, instead: str) -> None:
    """InputError where a command needs answers that a run on plain text never learned to give."""
    if is_unasked(task):
        raise InputError(f"{what} plain text (task pretrain), which asks nothing and answers nothing: {instead}")


def rows(
    task: str, train: Rendered, renderer: Renderer, found: Sequence[tuple[str, Any, str]]
) -> list[tuple[str, Any, str]]:
    """Rows of the plan, those about answers replaced by what is done instead."""
    if not is_unasked(task):
        return list(found)
    sizes = sizes_of(train.records)
    longest = int(sizes.path.max()) if len(sizes.path) else 0
    return [
        *(row for row in found if row[0] not in ROWS),
        ("scoring", "text", f"how likely the held-out documents are, {renderer.plain.scored_words}"),
        ("pieces", len(train.records), f"of the training documents, of at most {longest} tokens (data.max_tokens); "
            f"{renderer.plain.learned_words}"),
        ("left out", "answers", LEFT_OUT),
    ]  # fmt: skip
