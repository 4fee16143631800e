"""What is otherwise where a model writes nothing, but gives classes by a head or tells hidden tokens: how it is opened,
its labels, how texts become tokens, in which forms the base is asked, what a recipe may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from tunesmith.data.columns import NO_LABEL
from tunesmith.data.denoised import MaskedText, SpanText
from tunesmith.data.render import Renderer
from tunesmith.data.split import Split
from tunesmith.data.traits import label_counts
from tunesmith.data.whole_text import WholeText
from tunesmith.errors import DataError, PlanError
from tunesmith.evals.sets import label_set
from tunesmith.evals.tasks import KINDS, Form, Kind, answer_text
from tunesmith.heritage import Before, refuse_other_task
from tunesmith.models.class_head import gives_several, open_classes
from tunesmith.models.kinds import Door
from tunesmith.models.load import Base
from tunesmith.recipe import Recipe

OWN, POOLED, MEAN = "its own class head", "linear probe on the pooled state", "linear probe on the mean state"
NOT_WRITTEN = "this model reads texts and writes no text"
OF_LABELS = ("classify", "multilabel")  # tasks that a class head does


def door_of(recipe: Recipe) -> Door:
    """An encoder is opened with its masked-language head where the task is said to be pretrain."""
    if recipe.task.by == "head":
        return "classes"
    if recipe.task.name == "reward":
        return "scores"
    return "masked" if recipe.task.name == "pretrain" else "auto"


def kind_of(recipe: Recipe, base: Base, task: str) -> Kind:
    """What the task brings along. A class head says how likely each label is, and nothing is written."""
    if not base.by_head:
        return KINDS[task]
    if task == "pretrain":
        raise PlanError(
            f"{recipe.model} was opened with a class head, and the rows are plain texts: say --set task.name=pretrain "
            "to open an encoder with its masked-language head, and leave task.by out"
        )
    if task not in OF_LABELS:
        model, other = recipe.model, "take a model that writes"
        if recipe.task.by == "head":
            model, other = f"{model} with a class head", "leave task.by out"
        raise PlanError(
            f"{model} reads texts and writes none, so the task {task} is not for it. Name a column of labels, "
            f"--set data.columns.label=NAME, or {other}"
        )
    return replace(KINDS[task], scoring="likelihood")


def labels_in(base: Base, parts: Split, before: Before | None, task: str) -> tuple[str, ...]:
    """The closed set, sorted: of all rows, and of the run that this one goes on from. DataError where a task that
    chooses among them has none to choose."""
    rows = (parts.train, parts.dev, parts.test)
    found: set[str] = set().union(*map(label_counts, rows))
    if task == "multilabel":  # one that writes chooses from a list in its instruction
        some = chain(*rows) if base.by_head else ()
        found = set().union(*(label_set(answer_text(e)) for e in some)) - {NO_LABEL}
    if before is not None:
        refuse_other_task(before, task, is_labelled=bool(found))
        more = sorted(found - set(before.labels))
        if more and base.by_head:
            raise PlanError(
                f"{', '.join(more[:5])} is no label of {before.folder}, and a class head has an output for each label. "
                f"Leave such rows out, or begin with its tuned model as a base of its own: --model {before.merged} "
                "without --from"
            )
        found |= set(before.labels)
    labels = tuple(sorted(found))
    if (base.by_head or task == "classify") and len(labels) < 2:
        there = f"{len(labels)} ({labels[0]})" if labels else "none"
        raise DataError(
            f"task {task} needs at least two labels; the data has {there}. Add rows with others, or name another "
            "label column: --set data.columns.label=NAME"
        )
    return labels


def renderer_of(base: Base, recipe: Recipe, labels: Sequence[str], task: str) -> Renderer:
    """Of the model that is tuned on these labels; its class head, where it has one, is opened for them."""
    longest, too_long = recipe.data.max_tokens, recipe.data.too_long
    if base.layout == "seq2seq" and recipe.task.name == "pretrain":
        return SpanText(base.tokenizer, longest, too_long, recipe.seed)
    if base.writes or base.scores:
        return Renderer(base.tokenizer, longest, too_long, base.layout)
    longest = min(longest, base.context_tokens or longest)
    if base.is_masked:
        return MaskedText(base.tokenizer, longest, int(base.head.weight.shape[0]), recipe.seed)
    several = task == "multilabel"
    base.fresh |= open_classes(base.model, labels, several=several)
    return WholeText(base.tokenizer, labels, longest, too_long, label_set if several else None)


def forms_of(base: Base) -> tuple[Form, ...]:
    """In which the base is tried on dev: its head where it was made for these labels, else two probes."""
    names = (POOLED, MEAN) if base.fresh else (OWN,)
    return tuple(Form(name, "system") for name in names)


def refuse(recipe: Recipe, base: Base, before: Before | None) -> None:
    """PlanError at what only a model that writes can be asked, where it would change what is trained or shown, and at
    hidden tokens in a run that goes on."""
    if before is not None and (base.is_masked or (base.layout == "seq2seq" and recipe.task.name == "pretrain")):
        raise PlanError(
            f"parent.run (--from) does not go on with hidden tokens of plain texts yet. Begin with the tuned model of "
            f"{before.folder} as a base of its own: --model {before.merged} without --from"
        )
    if base.writes:
        return
    r, a = recipe.regularise, recipe.adapt
    reasons = {
        f"adapt.method {a.method} is proved on models that write": a.is_pefts,
        "adapt.context makes the context of models longer": a.context.tokens is not None,
        "objective.distil takes what another model would write": recipe.objective.distil.share > 0,
        "regularise.ewc looks at what the base would write": r.ewc > 0,
        "data.replay has general texts that are written": bool(recipe.data.replay.files),
        "data.sources mixes rows with replies that are written": bool(recipe.data.sources),
        "train.average.base_share is held against ordinary text": bool(recipe.train.average.base_share),
        "evals.lm_eval asks for texts": bool(recipe.evals.lm_eval),
        "evals.max_new_tokens is the longest answer that is written": recipe.evals.max_new_tokens is not None,
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise PlanError(f"{reason}, and {NOT_WRITTEN}. Leave it out")


def able(recipe: Recipe, base: Base) -> Recipe:
    """The recipe without what only a model that writes can be asked, and what nobody has to ask for; `rows` says so in
    the plan."""
    return recipe if base.writes else replace(recipe, evals=replace(recipe.evals, guards="off"))


def rows(base: Base, labels: Sequence[str], before: Before | None) -> list[tuple[str, object, str]]:
    """Of the plan."""
    asked: list[tuple[str, object, str]] = [("not asked", "guard probes", NOT_WRITTEN)] if not base.writes else []
    if base.scores:
        return [("score head", "1 number", "read at the end of a reply, where transformers reads it"), *asked]
    if not base.by_head:
        return asked
    why = (
        "new; the base's is a logistic regression on its pooled states, fitted on training rows"
        + (f" of {before.folder.name} or before" if before else ", and training begins at it")
        if base.fresh
        else "the base's own, made for these labels"
    )
    found: list[tuple[str, object, str]] = [("class head", f"{len(labels)} labels", why)]
    if gives_several(base.model):
        found.append(("labels", "each by itself", "a sigmoid; those above probability 0.5 are given"))
    return [*found, *asked]
