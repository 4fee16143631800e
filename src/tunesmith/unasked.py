"""Where a task is measured without answers (a plain text as it stands, a pair by how likely its two replies are, a
marked reply by how much likelier it became), all that would ask for some is left out, and said; what was demanded of
them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tunesmith.data.ingest import Ingested, infer_task
from tunesmith.data.records import sizes_of
from tunesmith.data.render import Rendered, Renderer
from tunesmith.data.stored import Chosen
from tunesmith.data.traits import KINDS as TARGETS
from tunesmith.data.traits import NUM_ANSWERED, column
from tunesmith.errors import InputError, PlanError, RecipeError
from tunesmith.evals.metrics import METRICS
from tunesmith.evals.tasks import KINDS
from tunesmith.objectives.kto import Kto
from tunesmith.objectives.policy import ONLINE, Policy, method_of
from tunesmith.objectives.preference import LOSSES, Preference, unread
from tunesmith.objectives.reward import Reward
from tunesmith.recipe import Recipe, Train
from tunesmith.types import Example

MAX_NEW_TOKENS = 256  # of what a model of such a run writes where somebody asks it later; no figure depends on it
# Rows of the plan that would say how answers are asked for
ROWS = ("instruction", "evals.max_new_tokens", "robustness", "evals.explain_cases", "scoring")
IN_CHAT = "`tunesmith chat` shows what it writes, where it is no encoder"
ROWS_OF_PAIRS = ("robustness", "evals.explain_cases", "scoring")
OF_PAIRS, OF_MARKS, OF_SCORES, OF_REWARDS = "preferences", "feedback", "reward", "reinforce"  # the tasks
NEEDS = {
    "pretrain": "likelihood",
    OF_PAIRS: "pairs",
    OF_MARKS: "marks",
    OF_SCORES: "scores",
}  # of the metrics that they can have
NO_ANSWERS = {
    "pretrain": "task pretrain learns plain text, which is scored as it stands (bits_per_byte); there are no prompts "
    "and no answers.",
    OF_PAIRS: f"task {OF_PAIRS} is measured by which of two given replies is likelier (preference_accuracy); nothing "
    "is written.",
    OF_MARKS: f"task {OF_MARKS} is measured by how much likelier or less likely given replies became "
    "(feedback_accuracy); nothing is written.",
    OF_SCORES: f"task {OF_SCORES} is measured by which of two given replies gets the higher score (reward_accuracy); "
    "nothing is written.",
}
MEASURED = {  # where, for commands that compare answers
    "pretrain": "its bits per byte are measured in a run, with the documents as data.test",
    OF_PAIRS: "its preference accuracy is measured in a run, with the pairs as data.test",
    OF_MARKS: "its feedback accuracy is measured in a run, with the marked replies as data.test",
    OF_SCORES: "its accuracy is measured in a run, with the pairs as data.test",
    OF_REWARDS: "its reward is measured in a run, with the prompts as data.test",
}
ASKED_NOTHING = {
    "pretrain": "plain text (task pretrain), which asks nothing and answers nothing",
    OF_PAIRS: f"pairs of replies (task {OF_PAIRS}), of which none is the right answer",
    OF_MARKS: f"replies marked good or bad (task {OF_MARKS}), of which none is the right answer",
    OF_SCORES: f"pairs of replies (task {OF_SCORES}), and scores replies without writing any",
    OF_REWARDS: f"prompts whose replies are graded (task {OF_REWARDS}), of which none is the right answer",
}
HOW_SCORED = {
    OF_PAIRS: "how likely both replies of a held-out pair are, end of turn included; nothing is written",
    OF_SCORES: "what the head gives at the end of both replies of a held-out pair; nothing is written",
    OF_MARKS: "how much likelier a held-out reply became than it was, end of turn included; nothing is written",
}
PAIRS_BESIDE = (
    "preference_accuracy and its kin are about pairs, not about answers: name a file of them as evals.preferences, and "
    "preference_accuracy stands beside the verdict"
)
LEFT_OUT = (
    "nothing is asked and nothing is written: no prompt forms or few-shot examples, no watched prompts, no changed "
    "prompts or recited rows (evals.robustness), no explained cases, no calibration, no kinds of error"
)


def is_text(task: str) -> bool:
    return KINDS[task].scoring == "text"


def is_unasked(task: str) -> bool:
    """Whether no answer is written to be measured."""
    return is_text(task) or KINDS[task].prefers


def task_of(recipe: Recipe, main: Ingested, ood: Sequence[Example], layout: str) -> str:
    """The task that is said, or told from the rows. PlanError where these are for another one."""
    task = infer_task(main.columns, main) if recipe.task.name == "auto" else recipe.task.name
    refuse_odd(task, (main.examples, ood))
    refuse(recipe, task)
    if is_text(task) and layout == "seq2seq" and (recipe.task.name == "auto" or recipe.data.replay.files):
        raise PlanError(
            "the rows are plain texts, from which an encoder-decoder learns by span corruption: say --set "
            "task.name=pretrain, and leave data.replay out, whose rows are not corrupted"
        )
    if is_text(task) and main.columns.text is None:
        raise PlanError(
            "task pretrain learns plain text, and the columns were read as prompts with answers. Name the column that "
            "is learned as it is: --set data.columns.text=NAME; or leave task.name out"
        )
    if main.columns.text is not None and not is_text(task):
        raise PlanError(
            f"task {task} learns answers, and the rows are plain texts without prompts (column "
            f"{main.columns.text!r}). Say --set task.name=pretrain, or give rows with a prompt and an answer"
        )
    return task


def suiting(recipe: Recipe, task: str) -> Recipe:
    """The recipe with everything off that the task has nothing for."""
    if KINDS[task].rewards:  # no answer is wrong, so none is explained
        return replace(recipe, evals=replace(recipe.evals, explain_cases=0))
    return without_answers(recipe) if is_unasked(task) else recipe


def without_answers(recipe: Recipe) -> Recipe:
    """The recipe with everything off that asks for answers."""
    return replace(
        recipe,
        train=replace(recipe.train, watch=0),
        evals=replace(recipe.evals, few_shot=0, robustness="off", explain_cases=0),
    )


def refuse_odd(task: str, parts: Sequence[Sequence[Example]]) -> None:
    """PlanError at the first row that the task cannot learn."""
    pairs, prompts = ("Pair", "Ranked"), ("Task", "Reply", "Label")
    kinds = {"pairs": pairs, "scores": pairs, "marks": ("Marked",), "graded": prompts}
    wanted = kinds.get(KINDS[task].scoring, ())
    for examples in parts:
        kind = column(examples, "kind")
        is_odd = ~np.isin(kind, [TARGETS.index(name) for name in wanted]) if wanted else kind >= NUM_ANSWERED
        for example in Chosen(examples, np.flatnonzero(is_odd)[:1].astype(np.uint32)):
            what = type(example.target).__name__.lower()
            if "Task" in wanted:
                raise PlanError(
                    f"{example.source} is a {what}, and task {OF_REWARDS} wants prompts, with what their graders need. "
                    "Leave task.name out, or name the columns: --set data.columns.prompt=[NAME] --set "
                    "data.columns.facts=[NAME]"
                )
            if "Marked" in wanted:
                raise PlanError(
                    f"{example.source} is a {what}, and task {OF_MARKS} learns replies marked good or bad. Leave "
                    "task.name out, or name the columns: --set data.columns.reply=NAME --set data.columns.mark=NAME"
                )
            if "Pair" in wanted:
                raise PlanError(
                    f"{example.source} is a {what}, and task {task} learns pairs: rows with a prompt, a chosen and "
                    "a rejected reply. Leave task.name out, or name the columns: --set data.columns.chosen=NAME "
                    "--set data.columns.rejected=NAME"
                )
            if what in ("pair", "ranked"):
                several = "pair" if what == "pair" else "list"
                raise PlanError(
                    f"{example.source} is a {several} of replies, and task {task} learns one. Leave task.name out (or "
                    f"say {OF_PAIRS}) to learn which is preferred, or say {OF_SCORES} to learn to score them; to learn "
                    "the chosen ones alone, give rows with these"
                )
            if what == "marked":
                raise PlanError(
                    f"{example.source} is a reply that is marked good or bad, and task {task} learns replies as they "
                    f"stand. Leave task.name out (or say {OF_MARKS}) to learn from the marks; to learn the good ones "
                    "alone, give rows with these"
                )
            raise PlanError(
                f"{example.source} is a prompt with what a grader needs, and task {task} learns given answers. Leave "
                f"task.name out (or say {OF_REWARDS}) and name a reward, or name the column of the answers: --set "
                "data.columns.reply=NAME"
            )


def refuse(recipe: Recipe, task: str) -> None:
    """PlanError where the recipe wants of a text or a pair what only an answer has, or a loss that is not theirs."""
    refuse_loss(recipe, task)
    for reason, is_so in (unrewarded(recipe) if task == OF_REWARDS else {}).items():
        if is_so:
            raise PlanError(f"task {task}: {reason}")
    if not is_unasked(task):
        return
    gates, evals, prefers = recipe.gates, recipe.evals, KINDS[task].prefers
    wanted = {
        "task.instruction": bool(recipe.task.instruction) and not prefers,
        "train.watch_prompts": bool(recipe.train.watch_prompts),
        "evals.judge": evals.judge.endpoint is not None,
        "evals.schema": evals.schema is not None,
        "gates.stopped": gates.stopped is not None,
        "gates.latency_s": gates.latency_s is not None and not KINDS[task].referred,
        "gates.calibration": gates.calibration is not None,
    }
    for name in recipe.task.metric or ():
        wanted[f"task.metric {name}"] = name not in METRICS or METRICS[name].needs != NEEDS[task]
    found = [key for key, is_wanted in wanted.items() if is_wanted]
    if found:
        raise PlanError(f"{', '.join(found)}: {NO_ANSWERS[task]} Leave it out")
    for reason, is_so in (unpreferred(recipe, task) if prefers else {}).items():
        if is_so:
            raise PlanError(f"task {task}: {reason}")


def refuse_loss(recipe: Recipe, task: str) -> None:
    """PlanError where the keys of another task's loss are said."""
    o = recipe.objective
    is_online = task == OF_REWARDS and method_of(o.policy) is ONLINE
    if task != OF_PAIRS and not is_online and o.preference != Preference():
        raise PlanError(
            f"objective.preference is how pairs are learned, and the task is {task}: leave it out, or give rows with a "
            "prompt, a chosen and a rejected reply"
        )
    if task != OF_REWARDS and (recipe.reward or o.policy != Policy() or recipe.environment.kind != "none"):
        raise PlanError(
            f"reward, environment and objective.policy are for replies that the model writes itself, and the task is "
            f"{task}: say --set task.name={OF_REWARDS}, or leave them out"
        )
    if task != OF_MARKS and o.kto != Kto():
        raise PlanError(
            f"objective.kto is how marked replies are learned, and the task is {task}: leave it out, or give rows with "
            "a prompt, a reply, and a mark that says whether it is good"
        )
    if task != OF_SCORES and o.reward != Reward():
        raise PlanError(
            f"objective.reward is how a reward model is learned, and the task is {task}: leave it out, or say "
            f"task.name: {OF_SCORES}"
        )


def unpreferred(recipe: Recipe, task: str) -> dict[str, bool]:
    """What cannot be had with pairs or marked replies: reason -> whether it is asked for."""
    o, asked = recipe.objective, recipe.objective.preference
    alone = "is a loss of replies that are right, and here it is learned which are better: leave it out"
    return {
        f"objective.preference.{', '.join(unread(asked))} is not read by loss {asked.loss}, which reads "
        f"{', '.join(LOSSES[asked.loss].reads)}: leave it out, or take another loss": bool(unread(asked)),
        f"objective.smoothing {alone} (cdpo has label_smoothing)": o.smoothing > 0,
        f"objective.focal {alone}": o.focal > 0,
        f"objective.contrastive {alone}": o.contrastive > 0,
        f"objective.distil {alone}": o.distil.share > 0,
        "data.replay has single replies, and a run has one loss: leave it out": bool(recipe.data.replay.files),
        "data.sources mixes rows with one reply each: name the files in data.train": bool(recipe.data.sources),
        "evals.history own plays dialogues through, and the replies here are given: leave it out": (
            recipe.evals.history == "own"
        ),
        "evals.preferences are pairs beside the verdict, which is about held-out pairs itself: name them as data.test, "
        "or leave it out": bool(recipe.evals.preferences) and task != OF_MARKS,
        "parent.replay has marks of another file, which are not read: leave it out": (
            task == OF_MARKS and recipe.parent.replay > 0
        ),
        "task.by head gives labels: leave it out": recipe.task.by == "head",
        **(unheld(recipe, task) if KINDS[task].referred else unscored(recipe)),
    }


def unheld(recipe: Recipe, task: str) -> dict[str, bool]:
    """The same where the model is compared with what it was."""
    r = recipe.regularise
    noise = "the model is compared with itself before the first update, and what is drawn would move that: leave it out"
    return {
        f"adapt.dropout: {noise}": recipe.adapt.dropout > 0,
        f"regularise.rdrop: {noise}": r.rdrop > 0,
        f"regularise.neftune: {noise}": r.neftune > 0,
        f"regularise.mixout: {noise}": r.mixout > 0,
        f"regularise.kl is counted by tokens, and replies here; objective.{'kto' if task == OF_MARKS else 'preference'}"
        ".beta is what holds the model to where it began. Leave it out": r.kl > 0,
    }


def unscored(recipe: Recipe) -> dict[str, bool]:
    """The same of a reward model."""
    r = recipe.regularise
    return {
        f"regularise.{name} compares what two passes would write, and nothing is written: leave it out": is_so
        for name, is_so in (("rdrop", r.rdrop > 0), ("kl", r.kl > 0))
    }


def unrewarded(recipe: Recipe) -> dict[str, bool]:
    """What cannot be had where replies are sampled and graded: reason -> whether it is asked for."""
    o, r = recipe.objective, recipe.regularise
    alone = "is a loss of replies that are right, and here none is: leave it out"
    noise = "what is sampled is compared with what is learned, and what is drawn would move that: leave it out"
    return {
        "reward names nothing to grade replies by: say what they are worth, as in reward: [{kind: numeric}]; or, to "
        "learn from replies, give rows that hold them": (not recipe.reward and recipe.environment.kind != "python"),
        f"objective.preference.{', '.join(unread(o.preference))} is not read by loss {o.preference.loss}, which reads "
        f"{', '.join(LOSSES[o.preference.loss].reads)}: leave it out, or take another loss": bool(unread(o.preference)),
        f"objective.smoothing {alone}": o.smoothing > 0,
        f"objective.focal {alone}": o.focal > 0,
        f"objective.contrastive {alone}": o.contrastive > 0,
        f"objective.distil {alone}": o.distil.share > 0,
        f"adapt.dropout: {noise}": recipe.adapt.dropout > 0,
        f"regularise.rdrop: {noise}": r.rdrop > 0,
        f"regularise.neftune: {noise}": r.neftune > 0,
        f"regularise.mixout: {noise}": r.mixout > 0,
        "regularise.kl needs a term of its own; objective.policy.kl holds the model to where it began. Leave it out": (
            r.kl > 0
        ),
        "data.replay has single replies, and a run has one loss: leave it out": bool(recipe.data.replay.files),
        "data.sources mixes rows with one reply each: name the files in data.train": bool(recipe.data.sources),
        "parent.replay has replies that somebody wrote, and here the model's own are learned: leave it out": (
            recipe.parent.replay > 0
        ),
        "evals.history own plays dialogues through, and one reply is graded at a time: leave it out": (
            recipe.evals.history == "own"
        ),
        "evals.robustness compares with right answers, and there is none: leave it out": (
            recipe.evals.robustness != "off"
        ),
        "evals.judge compares two answers beside the verdict; to learn from a judge, name it in reward": (
            recipe.evals.judge.endpoint is not None
        ),
        "train.early_stop.on loss: there is no loss on dev. Say train.early_stop.on=score": (
            recipe.train.early_stop.patience > 0 and recipe.train.early_stop.on == "loss"
        ),
        "train.average.base_share is tried by the loss on dev, and there is none: leave it out": bool(
            recipe.train.average.base_share
        ),
        "objective.policy.server is given the adapter of each update, and adapt.method is "
        f"{recipe.adapt.method}: use lora, or sample here": bool(o.policy.server.endpoint)
        and recipe.adapt.method != "lora",
        "objective.policy.server.ahead samples for the next update, which train.early_stop may call off: leave one of "
        "them out": o.policy.server.ahead and recipe.train.early_stop.patience > 0,
        "train.unfreeze_groups goes by epochs of rows: leave it out": recipe.train.unfreeze_groups > 0,
        "train.update_tokens: an update is as many replies as objective.policy's prompts, group_size and mini_batches "
        "say: leave it out": recipe.train.update_tokens != Train().update_tokens,
        "train.every_dev: there is no loss on dev: leave it out": recipe.train.every_dev is not None,
        "task.by head gives labels: leave it out": recipe.task.by == "head",
        "task.metric is the mean of the reward here: leave it out": recipe.task.metric is not None,
    }


def of_answers(names: Sequence[str]) -> list[str]:
    """The metrics but for those of pairs and marks, which need no means."""
    return [name for name in names if name not in METRICS or METRICS[name].needs not in ("pairs", "marks", "scores")]


def refuse_metrics(task: str, names: Sequence[str]) -> None:
    """RecipeError where a metric of pairs or marks is to judge a task of answers."""
    if not KINDS[task].prefers and len(of_answers(names)) < len(names):
        raise RecipeError(PAIRS_BESIDE)


def refuse_command(task: str, what: str, instead: str, *, writes: bool = False) -> None:
    """InputError where a command compares answers with right ones, which plain texts and pairs do not have. `writes`:
    it only wants some, as of a model that learned from pairs."""
    if is_text(task) or task == OF_SCORES or not (writes or KINDS[task].has_answers):
        raise InputError(f"{what} {ASKED_NOTHING[task]}: {instead}")


def rows(
    task: str, train: Rendered, renderer: Renderer, found: Sequence[tuple[str, Any, str]]
) -> list[tuple[str, Any, str]]:
    """Rows of the plan, those about answers replaced by what is done instead."""
    if task == OF_REWARDS:
        kept = [row for row in found if row[0] not in ("scoring", "update_tokens", "evals.max_new_tokens")]
        return [*kept, ("scoring", KINDS[task].scoring, "one greedy answer to each held-out prompt, by the reward")]
    if not is_unasked(task):
        return list(found)
    if not is_text(task):
        scored = ("scoring", KINDS[task].scoring, HOW_SCORED[task])
        return [*(row for row in found if row[0] not in ROWS_OF_PAIRS), scored, ("left out", "answers", LEFT_OUT)]
    sizes = sizes_of(train.records)
    longest = int(sizes.path.max()) if len(sizes.path) else 0
    return [
        *(row for row in found if row[0] not in ROWS),
        ("scoring", "text", f"how likely the held-out documents are, {renderer.plain.scored_words}"),
        ("pieces", len(train.records), f"of the training documents, of at most {longest} tokens (data.max_tokens); "
            f"{renderer.plain.learned_words}"),
        ("left out", "answers", LEFT_OUT),
    ]  # fmt: skip
