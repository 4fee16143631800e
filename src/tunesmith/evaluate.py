"""Asks base and tuned the same cases, and makes a verdict of what they said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import torch

from tunesmith import episodic, feedback, played, preferences, reward
from tunesmith.answered import Sitting
from tunesmith.build import MOST_COMPARED, Material, drawn, is_labelled, prompt_text
from tunesmith.classes import MEAN
from tunesmith.data.pack import pack
from tunesmith.data.split import key
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.evals import dialogues
from tunesmith.evals.baselines import UNCHANGED, baselines
from tunesmith.evals.compare import Cases, Rules, compare, secondary
from tunesmith.evals.metrics import Metric
from tunesmith.evals.score import Answer, by_segment, chosen, fitting, mean_nll, segment_sums
from tunesmith.evals.tasks import Form, label_record, references
from tunesmith.generate.limits import Limits
from tunesmith.measured import Asking, of_forests, of_texts, outputs, with_numbers
from tunesmith.method import objective_of
from tunesmith.objectives.kto import Marking
from tunesmith.objectives.preference import Preferring
from tunesmith.objectives.reward import Rewarding
from tunesmith.probing import by_mean
from tunesmith.recipe import Recipe
from tunesmith.roles import Objective
from tunesmith.types import Example, Forest, Verdict

AS_IT_STANDS = Answer("", stopped=True, num_tokens=0)  # of a plain text, to which nothing is said


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers of one model to some cases, in one form of the prompt."""

    form: str
    answers: tuple[Answer, ...]

    def texts(self) -> list[str]:
        return [a.text for a in self.answers]


def ask(
    session: Session, who: Who, recipe: Recipe, made: Material, form: Form, cases: Sequence[Example], sitting: Sitting
) -> Asked:
    """Answers in the order of the cases, within evals.budget_s; what an earlier, stopped sitting kept is not asked
    again."""
    prompts = [form.prompt(e, made.instruction) for e in cases]
    limits = Limits(
        made.max_new_tokens,
        made.renderer.stop_ids,
        seed=recipe.seed,
        rows=recipe.evals.rows,
        deadline_s=recipe.evals.budget_s,
    )
    asking = Asking(session, who, made.renderer, cases, prompts, limits, recipe.train.micro, sitting)
    if made.kind.scoring == "text":
        return Asked(form.name, tuple(with_numbers(asking, [AS_IT_STANDS for _ in cases], made.means)))
    if made.kind.scoring == "pairs":
        return Asked(form.name, tuple(preferences.asked(asking, recipe.evals.preference_by)))
    if made.kind.scoring == "marks":
        return Asked(form.name, tuple(feedback.asked(asking)))
    if made.kind.scoring == "scores":
        return Asked(form.name, tuple(reward.asked(asking)))
    if made.kind.scoring == "likelihood":
        if form.name == MEAN:
            answers = by_mean(session, recipe, made, prompts)
        else:
            answers = _by_likelihood(asking, made)
        return Asked(form.name, tuple(with_numbers(asking, answers, made.means)))
    if made.means.world is not None:
        said = episodic.answers(asking, lambda e: form.prompt(e, made.instruction), made.means)
        return Asked(form.name, tuple(said))
    put = played.Putting(made, form, session.base.context_tokens)
    return Asked(form.name, tuple(played.answers(asking, put)))


def _by_likelihood(asking: Asking, made: Material) -> list[Answer]:
    records = [label_record(made.renderer, e.id, p, made.labels) for e, p in zip(asking.cases, asking.prompts)]
    scored = list(of_forests(asking, records, lambda f: asking.session.logprobs(asking.who, [f])[0].tolist()))
    logps = [torch.tensor(logp_L, dtype=torch.float32) for _, logp_L in scored]
    pick = fitting if made.renderer.several else chosen
    return pick([forest for forest, _ in scored], logps, [e.id for e in asking.cases], made.labels)


def choose_form(
    session: Session, recipe: Recipe, made: Material, sitting: Callable[[int], Sitting]
) -> tuple[Form, list[dict[str, Any]]]:
    """The form in which the base does best on dev, and what each scored there. Test is not looked at. `sitting` gives
    the one of each form, by its number."""
    cases = made.split.dev
    if not cases:
        first = made.forms[0]
        return first, [{"form": first.name, "dev_score": None, "num_cases": 0, "chosen": True}]
    wanted, metric, scores = made.references(cases), made.alone, []
    for index, form in enumerate(made.forms):
        asked = ask(session, None, recipe, made, form, cases, sitting(index))
        scores.append(metric.corpus(outputs(metric, asked.answers), wanted))
    best = max(range(len(scores)), key=lambda i: -scores[i] if metric.less_is_better else scores[i])
    rows = [
        {"form": f.name, "dev_score": s, "num_cases": len(cases), "chosen": i == best}
        for i, (f, s) in enumerate(zip(made.forms, scores))
    ]
    return made.forms[best], rows


def dev_loss(session: Session, who: Who, recipe: Recipe, made: Material) -> float | None:
    """Nats per learned token on dev, of pairs and marked replies the loss of each; None where there is no dev
    split."""
    if not made.dev.records or made.kind.rewards:
        return None
    forests = pack(made.dev.records, recipe.train.micro, session.base.rope)
    if made.kind.scoring == "scores":
        return mean_score_loss(Rewarding(recipe.objective.reward), forests, session.scores(who, forests))
    logps = session.logprobs(who, forests)
    if made.kind.prefers:
        return mean_loss(objective_of(recipe, made.kind, made.split.dev, made.reference), forests, logps)
    return mean_nll(forests, logps)


def mean_score_loss(objective: Rewarding, forests: Sequence[Forest], scores: Sequence[torch.Tensor]) -> float:
    """Per pair, of what was scored without gradients."""
    each = [objective.of(by_segment(f, score_L), f).total for f, score_L in zip(forests, scores, strict=True)]
    return float(sum(each)) / sum(float(objective.count(forest)) for forest in forests)


def mean_loss(objective: Objective, forests: Sequence[Forest], logps: Sequence[torch.Tensor]) -> float:
    """Per pair or marked reply, of what was scored without gradients."""
    each = [(nats_of(forest, logp_L), forest) for forest, logp_L in zip(forests, logps, strict=True)]
    if isinstance(objective, Marking):
        rows = torch.cat([objective.rows(logp_S, forest) for logp_S, forest in each])
        total = sum(float(objective.of(logp_S, forest, rows).total) for logp_S, forest in each)
    else:
        assert isinstance(objective, Preferring)
        total = sum(float(objective.of(logp_S, forest).total) for logp_S, forest in each)
    return total / sum(float(objective.count(forest)) for forest in forests)


def nats_of(forest: Forest, logp_L: torch.Tensor) -> torch.Tensor:
    """[S] of each segment; 0 where nothing is learned."""
    logp_S = torch.zeros(forest.num_segments, dtype=torch.float64)
    for segment, nats in segment_sums(forest, logp_L).items():
        logp_S[segment] = nats
    return logp_S


def dev_score(session: Session, who: Who, recipe: Recipe, made: Material, sitting: Sitting) -> tuple[float, float]:
    """(the task's metric on dev, the same turned so that less is better)."""
    cases = made.split.dev
    asked = ask(session, who, recipe, made, made.forms[0], cases, sitting)
    sitting.forget()
    metric = made.alone
    score = metric.corpus(outputs(metric, asked.answers), made.references(cases))
    return score, score if metric.less_is_better else -score


def verdict_of(
    recipe: Recipe, made: Material, base: Asked, tuned: Asked, forms: Sequence[dict[str, Any]], notes: Sequence[str]
) -> dict[str, Any]:
    """verdict.json but for the run's name and the digests of the models."""
    cases = made.split.test
    simple = simple_texts(made)
    history = played.facts(made, base.answers, tuned.answers) if made.plays else None
    [first, *further] = [(cases_of(made, metric, base, tuned, simple), metric) for metric in made.primary]
    notes = [*filter(None, notes), *(played.notes(history) if history else ())]
    if made.kind.scoring == "pairs":
        notes = [*preferences.notes(cases, base.answers, tuned.answers, recipe.evals.preference_by), *notes]
    if made.kind.scoring == "scores":
        notes = [*reward.notes(tuned.answers), *notes]
    if made.kind.scoring == "marks":
        notes = [*feedback.notes(cases, tuned.answers), *notes]
    best = next((f["dev_score"] for f in forms if f["chosen"]), None)
    if best is not None and len(forms) > 1:
        notes.append(f"the base was asked in the form that did best on dev ({base.form}: {best:.3f}), of {len(forms)}.")
    if made.kind.note and made.means.named("judge") is None:
        notes.append(made.kind.note)
    if made.kind.scoring == "text" and made.renderer.plain.note:
        notes.append(made.renderer.plain.note)
    if made.num_test > len(cases):
        notes.append(
            f"{len(cases)} of {made.num_test} test rows were used, drawn by the hash of their ids (evals.max_cases)."
        )
    for name, asked in (("base", base), ("tuned", tuned)):
        each = [turn for a in asked.answers for turn in a.each]
        running = sum(not a.stopped for a in each)
        if running and made.means.world is not None:
            notes.append(
                f"{running} of {len(each)} episodes of the {name} model were ended by a limit (environment.turns, "
                "environment.tokens or the tokens of a reply) and not by their environment."
            )
        elif running:
            notes.append(
                f"{running} of {len(each)} answers of the {name} model did not stop within the limit "
                f"of {made.max_new_tokens} tokens."
            )
    rules = Rules(alpha=recipe.evals.alpha, smallest_that_matters=recipe.task.smallest_that_matters, seed=recipe.seed)
    verdict = compare(*first, rules, task=made.task, notes=notes, further=further)
    facts = as_facts(verdict)
    facts["secondary"] = {}
    for metric in made.secondary:
        there = cases_of(made, metric, base, tuned)
        facts["secondary"] |= secondary(there, [metric], rules) if there.references else {}
    facts["notes"] = [*facts["notes"], *opposed(facts)]
    facts["base_form"] = base.form
    if history:
        facts["history"] = history
    facts["digests"] = {"test_cases": cases_digest(cases)}
    return facts


def opposed(facts: Mapping[str, Any]) -> list[str]:
    """Of secondary metrics whose whole interval lies on the other side of zero than the decision."""
    sign = {"better": 1, "worse": -1}.get(facts["decision"], 0)
    return [
        f"{name}, which decides nothing, says the opposite: {row['base']:.3g} → {row['tuned']:.3g}, beyond chance. "
        "Read some answers before you believe either of the two."
        for name, row in facts["secondary"].items()
        if max(sign * end for end in row["interval"]) < 0
    ]


def cases_of(
    made: Material, metric: Metric, base: Asked, tuned: Asked, simple: Mapping[str, Sequence[str]] | None = None
) -> Cases:
    """What the metric compares. `simple`: texts of what needs no tuning."""
    found = paired(metric, made, made.split.test, base.answers, tuned.answers)
    if metric.name == "reward_accuracy" and simple is not None:
        return replace(found, simple=reward.simple(made.split.test))
    return replace(found, simple=as_read(made, metric, simple or {}))


def as_asked(metric: Metric, answers: Sequence[Answer], wanted: Sequence[Any]) -> list[Any]:
    """What the metric reads of each answer; None where it was not measured, and where a dialogue was not asked as it is
    wanted: turn by turn, or its last answer alone."""
    rows = zip(outputs(metric, answers), answers, wanted, strict=True)
    return [output if is_as_wanted(answer, right) else None for output, answer, right in rows]


def is_as_wanted(answer: Answer, wanted: Any) -> bool:
    """Whether it has a turn for each that is wanted."""
    return len(answer.turns) == (len(wanted) if isinstance(wanted, tuple) else 0)


def paired(
    metric: Metric, made: Material, cases: Sequence[Example], base: Sequence[Answer], tuned: Sequence[Answer]
) -> Cases:
    """All cases with both answers, but for a judge that was asked about some."""
    wanted = made.references(cases)
    sides = [as_asked(metric, answers, wanted) for answers in (base, tuned)]
    there = [k for k, pair in enumerate(zip(*sides, strict=True)) if None not in pair]
    groups = [cases[k].group for k in there] if any(e.group for e in cases) else None
    of_base, of_tuned = ([side[k] for k in there] for side in sides)
    return Cases([wanted[k] for k in there], of_base, of_tuned, groups)


def simple_texts(made: Material) -> dict[str, Sequence[str]]:
    """What needs no tuning, to each turn that is asked, behind those before it in the data; it learns from at most
    MOST_COMPARED training examples. It foretells no plain text."""
    if not made.kind.has_answers:
        return {}
    parts = drawn(made.split.train, MOST_COMPARED), made.split.test
    train, cases = (dialogues.each_turn(part, plays=made.plays) for part in parts)
    return dict(baselines(
        [prompt_text(e) for e in train], references(train), [prompt_text(e) for e in cases],
        is_labels=is_labelled(cases), several=made.task == "multilabel",
    ))  # fmt: skip


def as_read(made: Material, metric: Metric, simple: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The texts as the metric reads them, case by case; nothing where it reads more than a text."""
    cases = made.split.test
    read: dict[str, Sequence[Any] | None] = dict(simple)
    if metric.needs != "answer":
        turns = dialogues.each_turn(cases, plays=made.plays)
        # a question is no program, and no answer for a function that somebody wrote
        read = {n: of_texts(metric, texts, turns, made.means) for n, texts in simple.items() if n != UNCHANGED}
    wanted = made.references(cases)
    return {name: dialogues.by_case(rows, wanted) for name, rows in read.items() if rows is not None}


def as_facts(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)


def cases_digest(cases: Sequence[Example]) -> str:
    """Of the set of held-out cases: their ids are hashes of their content."""
    return digest_of_ids([e.id for e in cases])


def digest_of_ids(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def case_table(made: Material, base: Asked, tuned: Asked) -> pa.Table:
    """scores/cases.parquet: one row per held-out case."""
    cases = made.split.test
    wanted = made.references(cases)
    rows = {
        "example_id": [e.id for e in cases],
        "source": [e.source for e in cases],
        "group": [e.group or "" for e in cases],
        "split_key": [key(e) for e in cases],
        "prompt": ["" if e.is_text else made.shown(e) for e in cases],
        "reference": list(map(dialogues.transcript, wanted)),
        **preferences.column(cases),
        **feedback.column(cases),
        "base_output": base.texts(),
        "tuned_output": tuned.texts(),
        "base_score": scores_of(made.metric, base, wanted),
        "tuned_score": scores_of(made.metric, tuned, wanted),
        "base_stopped": [a.stopped for a in base.answers],
        "tuned_stopped": [a.stopped for a in tuned.answers],
        "base_probability": [a.probability for a in base.answers],
        "tuned_probability": [a.probability for a in tuned.answers],
        **measured_columns(made.metric, base, tuned),
        **played.column(made, base.answers, tuned.answers),
        "changed": [b != t for b, t in zip(base.texts(), tuned.texts())],
    }
    return pa.table(rows)


def scores_of(metric: Metric, asked: Asked, wanted: Sequence[Any]) -> list[float | None]:
    """Of each case; None where it was not measured."""
    given = outputs(metric, asked.answers)
    return [None if o is None else float(metric.case(o, w)) for o, w in zip(given, wanted, strict=True)]


def measured_columns(metric: Metric, base: Asked, tuned: Asked) -> dict[str, Any]:
    """What the primary metric read where that is not the text, so that runs can be compared by it later."""
    found: dict[str, Any] = {"scale": [metric.scale] * len(base.answers)}
    if metric.needs != "answer":
        for name, asked in (("base", base), ("tuned", tuned)):
            said = zip(asked.answers, outputs(metric, asked.answers))
            rows = [None if o is None or a.turns else list(map(float, o)) for a, o in said]
            found[f"{name}_measured"] = pa.array(rows, pa.list_(pa.float64()))
    return found
