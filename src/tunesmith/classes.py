"""What is otherwise where a model gives classes by a head and writes nothing: how texts become tokens, in which forms
the base is asked, what a recipe may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.data.render import Renderer
from tunesmith.data.whole_text import WholeText
from tunesmith.errors import PlanError
from tunesmith.evals.tasks import Form
from tunesmith.models.class_head import open_classes
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe

OWN, POOLED, MEAN = "its own class head", "linear probe on the pooled state", "linear probe on the mean state"
NOT_WRITTEN = "this model gives classes and writes no text"


def renderer_of(base: Base, recipe: Recipe, labels: Sequence[str]) -> Renderer:
    """Of the model that is tuned on these labels; its class head, where it has one, is opened for them."""
    longest, too_long = recipe.data.max_tokens, recipe.data.too_long
    if not base.by_head:
        return Renderer(base.tokenizer, longest, too_long, base.layout)
    base.fresh |= open_classes(base.model, labels)
    return WholeText(base.tokenizer, labels, min(longest, base.context_tokens or longest), too_long)


def refuse_task(recipe: Recipe, base: Base, task: str) -> None:
    if base.by_head and task != "classify":
        model, other = recipe.model, "take a model that writes"
        if recipe.task.by == "head":
            model, other = f"{model} with a class head", "leave task.by out"
        raise PlanError(
            f"{model} reads texts and writes none, so the task {task} is not for it. Name a column of labels, "
            f"--set data.columns.label=NAME, or {other}"
        )


def forms_of(base: Base) -> tuple[Form, ...]:
    """In which the base is tried on dev: its head where it was made for these labels, else two probes."""
    names = (POOLED, MEAN) if base.fresh else (OWN,)
    return tuple(Form(name, "system") for name in names)


def able(recipe: Recipe, base: Base) -> Recipe:
    """The recipe without what only a model that writes can be asked; `rows` says so in the plan. PlanError at what
    changes how it is trained."""
    if not base.by_head:
        return recipe
    r, a = recipe.regularise, recipe.adapt
    reasons = {
        f"adapt.method {a.method} is proved on models that write": a.is_pefts,
        "adapt.method prompt puts rows before what a model writes": a.is_prompt,
        "adapt.context makes the context of models longer": a.context.tokens is not None,
        "objective.distil takes what another model would write": recipe.objective.distil.share > 0,
        "regularise.ewc looks at what the base would write": r.ewc > 0,
        "data.replay has general texts that are written": bool(recipe.data.replay.files),
        "train.average.base_share is held against ordinary text": bool(recipe.train.average.base_share),
        "evals.lm_eval asks for texts": bool(recipe.evals.lm_eval),
    }
    if recipe.parent.run:
        raise PlanError(
            f"parent.run (--from) goes on with models that write; to go on with this one, take what it became as the "
            f"model: --model {recipe.parent.run}/merged (or /model)"
        )
    for reason, is_so in reasons.items():
        if is_so:
            raise PlanError(f"{reason}, and {NOT_WRITTEN}. Leave it out")
    return replace(recipe, evals=replace(recipe.evals, guards="off"))


def rows(base: Base, labels: Sequence[str]) -> list[tuple[str, object, str]]:
    """Of the plan."""
    if not base.by_head:
        return []
    why = (
        "new; it begins as a logistic regression on the base's pooled states, fitted on training rows"
        if base.fresh
        else "the base's own, made for these labels"
    )
    return [("class head", f"{len(labels)} labels", why), ("not asked", "guard probes", NOT_WRITTEN)]
