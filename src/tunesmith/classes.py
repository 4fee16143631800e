"""What is otherwise where a model writes nothing, but gives classes by a head or tells hidden tokens: how it is opened,
how texts become tokens, in which forms the base is asked, what a recipe may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.data.denoised import MaskedText, SpanText
from tunesmith.data.render import Renderer
from tunesmith.data.whole_text import WholeText
from tunesmith.errors import PlanError
from tunesmith.evals.tasks import Form
from tunesmith.models.class_head import open_classes
from tunesmith.models.kinds import Door
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe

OWN, POOLED, MEAN = "its own class head", "linear probe on the pooled state", "linear probe on the mean state"
NOT_WRITTEN = "this model reads texts and writes no text"


def door_of(recipe: Recipe) -> Door:
    """An encoder is opened with its masked-language head where the task is said to be pretrain."""
    if recipe.task.by == "head":
        return "classes"
    return "masked" if recipe.task.name == "pretrain" else "auto"


def renderer_of(base: Base, recipe: Recipe, labels: Sequence[str]) -> Renderer:
    """Of the model that is tuned on these labels; its class head, where it has one, is opened for them."""
    longest, too_long = recipe.data.max_tokens, recipe.data.too_long
    if base.layout == "seq2seq" and recipe.task.name == "pretrain":
        return SpanText(base.tokenizer, longest, too_long, recipe.seed)
    if base.writes:
        return Renderer(base.tokenizer, longest, too_long, base.layout)
    longest = min(longest, base.context_tokens or longest)
    if base.is_masked:
        return MaskedText(base.tokenizer, longest, int(base.head.weight.shape[0]), recipe.seed)
    base.fresh |= open_classes(base.model, labels)
    return WholeText(base.tokenizer, labels, longest, too_long)


def refuse_task(recipe: Recipe, base: Base, task: str) -> None:
    if base.by_head and task == "pretrain":
        raise PlanError(
            f"{recipe.model} was opened with a class head, and the rows are plain texts: say --set task.name=pretrain "
            "to open an encoder with its masked-language head, and leave task.by out"
        )
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
    if base.writes:
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
    asked: list[tuple[str, object, str]] = [("not asked", "guard probes", NOT_WRITTEN)] if not base.writes else []
    if not base.by_head:
        return asked
    why = (
        "new; it begins as a logistic regression on the base's pooled states, fitted on training rows"
        if base.fresh
        else "the base's own, made for these labels"
    )
    return [("class head", f"{len(labels)} labels", why), *asked]
