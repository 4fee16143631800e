"""The step of a run that asks how far the verdict holds: robustness.json. What each part means: docs/robustness.md.

Slices, contamination and over-fitting need no answer more and are always there. Changed prompts, inputs out of scope
and recited rows ask both models again, which `evals.robustness` allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np

from tunesmith import by_heart, evaluate, played
from tunesmith.build import Material, drawn, is_labelled, prompt_text
from tunesmith.calibrate import NAME as CALIBRATION
from tunesmith.calibrate import label_logps
from tunesmith.data.audit import like_training
from tunesmith.data.pack import pack
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot, Who
from tunesmith.evals import brittle, exposure, out_of_scope, overfit, slices
from tunesmith.evals.calibration import Calibration, top
from tunesmith.evals.compare import Cases, Rules, secondary
from tunesmith.evals.metrics import Metric
from tunesmith.evals.perturb import FULL, QUICK, Change, applies, changed, form_of, instruction_of
from tunesmith.evals.score import Answer
from tunesmith.evals.tasks import Form, answer_text
from tunesmith.folder import RunFolder
from tunesmith.measured import outputs
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Label, Message, Record

NAME = "robustness.json"
KEPT = "scores/robustness.json"  # what was asked so far, for a resume
CHANGES = {"off": (), "quick": QUICK, "full": FULL}
NUM_CASES = {"off": 0, "quick": 40, "full": 200}  # asked in each change
COMPARED_S = 0.1  # of a change, beside what the models take: texts changed, answers compared, kept on disk
LONGEST = 3  # times its tokens that a prompt may grow to by slips, which break words into more tokens


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished evaluation that is looked at again."""

    recipe: Recipe
    folder: RunFolder
    session: Session
    made: Material
    snapshot: Snapshot
    base: evaluate.Asked
    tuned: evaluate.Asked

    @property
    def sides(self) -> tuple[tuple[str, Who, Form], tuple[str, Who, Form]]:
        """(name, who, form of the prompt) as they were asked for the verdict."""
        base_form = next(f for f in self.made.forms if f.name == self.base.form)
        return ("base", None, base_form), ("tuned", self.snapshot, self.made.forms[0])

    @property
    def metric(self) -> Metric:
        """The primary metric; a judge is not asked again, and the task's own metric stands for it."""
        return self.made.alone

    @property
    def learned(self) -> by_heart.Learned:
        return by_heart.Learned(self.recipe, self.session, self.made, self.snapshot)

    @property
    def rules(self) -> Rules:
        return Rules(alpha=self.recipe.evals.alpha, seed=self.recipe.seed)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What an earlier sitting of this run found under the name, or else what is made now."""
        kept = self.folder.read(KEPT) or {}
        if name not in kept:
            made = make()
            kept = {**(self.folder.read(KEPT) or {}), name: made}
            self.folder.write(KEPT, kept)
        return kept[name]


def measure(trial: Trial) -> dict[str, Any]:
    """robustness.json. Its `notes` are what the verdict has to say of it."""
    level, made = trial.recipe.evals.robustness, trial.made
    with trial.folder.stage("robustness"), trial.folder.stop.gently("this part of the robustness checks"):
        facts: dict[str, Any] = {
            "level": level,
            "metric": trial.metric.name,
            "slices": in_slices(trial),
            "contamination": contamination(made),
            "overfitting": trial.once("overfitting", lambda: overfitting(trial)),
            "exposure": trial.once("exposure", lambda: by_heart.exposed(trial.learned)),
            "ood": elsewhere(trial) if made.ood else None,
            "changes": [],
            "out_of_scope": None,
            "memorised": None,
        }
        if level != "off":
            facts["changes"] = changes(trial)
            facts["memorised"] = trial.once("memorised", lambda: by_heart.memorised(trial.learned))
            if made.is_one_label:
                facts["out_of_scope"] = trial.once("out_of_scope", lambda: unanswerable(trial))
    matters = trial.recipe.task.smallest_that_matters
    facts["notes"] = [
        *brittle.notes(facts["changes"], trial.metric.matters if matters is None else matters),
        *overfit.notes(facts["overfitting"], facts["memorised"]),
        *exposure.notes(facts["exposure"]),
        *out_of_scope.notes(facts["out_of_scope"]),
    ]
    trial.folder.write(NAME, facts)
    return facts


def into(verdict: dict[str, Any], facts: dict[str, Any]) -> None:
    """What of it stands in verdict.json: the worst slice, numbers beside the score, and sentences where something is
    wrong."""
    found = facts["slices"]
    verdict["worst_slice"] = found["worst"] and {**found["worst"], "num_slices": found["num_slices"]}
    verdict |= {name: facts[name] for name in ("contamination", "overfitting", "exposure", "ood")}
    verdict["notes"] = [*verdict["notes"], *slices.notes(found, verdict["decision"]), *facts["notes"]]


def why(recipe: Recipe, made: Material, ranked: by_heart.Ranked | None) -> str:
    """What the level costs, for the plan."""
    level, scored = recipe.evals.robustness, ""
    if ranked is not None:
        num = len(ranked.known) + len(ranked.fresh)
        exposed = f"exposure of {num} secrets in replies: {ranked.num_tokens:,} tokens a model"
        scored = f"; {ranked.not_measured or exposed}"
    if level == "off":
        return f"slips, other wordings and recited rows are not tried; quick: 40 cases in 5 ways{scored}"
    num = min(NUM_CASES[level], len(made.split.test))
    cases = drawn(made.split.test, num)
    asked = [c for c in CHANGES[level] if applies(c, cases, made.instruction, made.labels, recipe.seed)]
    each = 2 * len(asked) * played.num_answers(made, cases)
    more = f"{len(asked)} ways to ask {num} cases: {each} answers more of base and tuned together"
    return f"{more}, beside {2 * played.num_answers(made, made.split.test)} of the verdict{scored}"


# -- of answers that are there ----------------------------------------------------------------------------------------


def in_slices(trial: Trial) -> dict[str, Any]:
    """By file, length, language, label, group, likeness to training, and the columns named in data.columns.slices."""
    made, cases = trial.made, trial.made.split.test
    wanted = made.references(cases)
    groups = [e.group for e in cases] if any(e.group for e in cases) else None
    base, tuned = (outputs(trial.metric, asked.answers) for asked in (trial.base, trial.tuned))
    like = like_training(made.split)
    dimensions: dict[str, list[str | None]] = {
        "file": [PurePath(e.source.rpartition(":")[0]).name for e in cases],
        "length": slices.terciles([len(prompt_text(e)) for e in cases]),
        "language": slices.languages([prompt_text(e) for e in cases]),
        "group": [e.group for e in cases],
        "prompt": ["unlike those of training" if i < 0 else "like one of training" for i in like],
    }
    if is_labelled(cases) and trial.metric.kind != "corpus":  # what is computed over all labels says nothing of one
        dimensions["label"] = list(wanted)
    named = {name: [e.slices.get(name) for e in cases] for name in made.columns.slices}
    return slices.of_slices(
        Cases(wanted, base, tuned, groups), trial.metric, dimensions | named, trial.rules, list(named)
    )


def contamination(made: Material) -> dict[str, Any]:
    """Copies of test rows in training, as the audit found them; `frac` of the test cases as they were used."""
    like = int((like_training(made.split) >= 0).sum())
    return {
        "taken_out": made.audit["moved"]["count"],
        "like_training": like,
        "num_cases": len(made.split.test),
        "frac": like / max(1, len(made.split.test)),
    }


def overfitting(trial: Trial) -> dict[str, Any] | None:
    """The train-dev gap, on as many training rows as there are dev rows (evals.max_dev_cases). Of pairs and marks
    none: the loss of a rejected reply has no better direction."""
    made = trial.made
    if made.kind.prefers or made.kind.rewards:
        return None
    of_dev = {e.id: e.group for e in made.split.dev}
    some = {e.id: e.group for e in drawn(made.split.train, trial.recipe.evals.max_dev_cases)}
    train = [r for r in made.train.records if r.example_id in some]
    dev = list(made.dev.records)
    groups = [some[n] for n in ids_of(train)], [of_dev[n] for n in ids_of(dev)]
    if min(overfit.num_units(g) for g in groups) < overfit.MIN_UNITS:
        return None  # before anything is asked
    losses = [
        (row_losses(trial, None, records), row_losses(trial, trial.snapshot, records)) for records in (train, dev)
    ]
    return overfit.gap(losses[0], losses[1], groups, trial.recipe.evals.alpha)


def row_losses(trial: Trial, who: Who, records: Sequence[Record]) -> list[float]:
    """Nats per learned token of each example, weighted as in training, in the order of `ids_of`."""
    forests = pack(records, trial.recipe.train.micro, trial.session.base.rope)
    found = {name: np.zeros(2) for name in ids_of(records)}
    for forest, logp_L in zip(forests, trial.session.logprobs(who, forests)):
        learned_L = (forest.weights != 0).nonzero()[:, 0]
        owner_L = forest.owner[np.searchsorted(forest.stop.numpy(), learned_L.numpy(), side="right")].numpy()
        weight_L = forest.weights[learned_L].double().numpy()
        total = np.bincount(owner_L, weight_L * logp_L.double().numpy(), len(forest.example_ids))
        weight = np.bincount(owner_L, weight_L, len(forest.example_ids))
        for name, t, w in zip(forest.example_ids, total, weight):
            found[name] += (t, w)
    return [float(-t / w) for t, w in found.values()]


def ids_of(records: Sequence[Record]) -> list[str]:
    """Of the examples that they are of, each once: a plain text has several records."""
    return list(dict.fromkeys(r.example_id for r in records))


# -- of answers that are asked for ------------------------------------------------------------------------------------


def asked_again(
    trial: Trial, name: str, made: Material, cases: Sequence[Example], change: Change | None = None
) -> tuple[list[Answer], list[Answer]]:
    """What base and tuned say to these cases, each in the form of the verdict, or in what a change makes of it."""

    def ask(which: str, who: Who, form: Form) -> list[dict[str, Any]]:
        sitting = trial.folder.sitting(f"robustness_{which}", f"{which}: {name}")
        form = form if change is None else form_of(form, change)
        asked = evaluate.ask(trial.session, who, trial.recipe, made, form, cases, sitting)
        sitting.forget()
        return [asdict(a) for a in asked.answers]

    said = [trial.once(f"{side[0]}: {name}", partial(ask, *side)) for side in trial.sides]
    base, tuned = ([Answer.of(a) for a in rows] for rows in said)
    return base, tuned


def elsewhere(trial: Trial) -> dict[str, Any]:
    """The cases of data.ood: a row like those of secondary metrics. It decides nothing."""
    made, cases = trial.made, trial.made.ood
    said = asked_again(trial, "cases from elsewhere", made, cases)
    groups = [e.group for e in cases] if any(e.group for e in cases) else None
    base, tuned = (outputs(trial.metric, answers) for answers in said)
    [row] = secondary(Cases(made.references(cases), base, tuned, groups), [trial.metric], trial.rules).values()
    unknown = sorted({e.target.name for e in cases if isinstance(e.target, Label)} - set(made.labels))
    return {**row, "num_cases": len(cases), "unknown_labels": unknown}


def changes(trial: Trial) -> list[dict[str, Any]]:
    """Each change of the prompt, on cases that stay within the context however they are spelled."""
    made, seed, level = trial.made, trial.recipe.seed, trial.recipe.evals.robustness
    at = {e.id: k for k, e in enumerate(made.split.test)}
    cases = drawn([e for e in made.split.test if fits(trial, e)], NUM_CASES[level])
    if not cases:
        return []
    groups = [e.group for e in cases] if any(e.group for e in cases) else None
    base, tuned = (outputs(trial.metric, [a.answers[at[e.id]] for e in cases]) for a in (trial.base, trial.tuned))
    sides = {}
    for change in CHANGES[level]:
        if applies(change, cases, made.instruction, made.labels, seed):
            of_base, of_tuned = (outputs(trial.metric, answers) for answers in asked_otherwise(trial, change, cases))
            sides[change.title] = brittle.Sides(made.references(cases), base, tuned, of_base, of_tuned, groups)
    return brittle.of_changes(sides, trial.metric, trial.rules, is_floor=is_floor(trial))


def asked_otherwise(trial: Trial, change: Change, cases: Sequence[Example]) -> tuple[list[Answer], list[Answer]]:
    """What base and tuned say to the changed cases; those that share an instruction are asked together."""
    made, seed = trial.made, trial.recipe.seed
    by_instruction: dict[str, list[Example]] = {}
    for example in cases:
        said = instruction_of(made.instruction, change, made.labels, seed, example.id)
        by_instruction.setdefault(said, []).append(example)
    found: tuple[dict[str, Answer], dict[str, Answer]] = {}, {}
    for number, (said, mine) in enumerate(by_instruction.items(), 1):
        name = change.title + (f", way {number}" if len(by_instruction) > 1 else "")
        rows = [changed(e, change, made.labels, seed) for e in mine]
        for side, answers in zip(found, asked_again(trial, name, replace(made, instruction=said), rows, change)):
            side.update(zip([e.id for e in mine], answers))
    base, tuned = ([side[e.id] for e in cases] for side in found)
    return base, tuned


def is_floor(trial: Trial) -> bool:
    """Whether the base has nothing to lose, by all of its held-out cases."""
    cases = trial.made.split.test
    groups = [e.group for e in cases] if any(e.group for e in cases) else None
    base, tuned = (outputs(trial.metric, asked.answers) for asked in (trial.base, trial.tuned))
    compared = Cases(trial.made.references(cases), base, tuned, groups)
    return brittle.is_floor(compared, trial.metric, guess_of(trial, cases), trial.recipe.evals.alpha)


def fits(trial: Trial, example: Example) -> bool:
    context = trial.session.base.context_tokens
    if context is None:
        return True
    prompts = [trial.made.renderer.prompt(form.prompt(example, trial.made.instruction)) for _, _, form in trial.sides]
    return LONGEST * max(map(len, prompts)) + trial.made.max_new_tokens <= context


def guess_of(trial: Trial, cases: Sequence[Example]) -> float | None:
    """What the answer that is most frequent in training scores on these cases; None where answers are texts."""
    if not is_labelled(cases) or trial.metric.needs != "answer":
        return None
    train = Counter(answer_text(e) for e in trial.made.split.train)
    most = max(sorted(train), key=lambda answer: train[answer])
    return trial.metric.corpus([most] * len(cases), trial.made.references(cases))


def unanswerable(trial: Trial) -> dict[str, Any]:
    """How sure the tuned model is of texts that belong to no label, by the same rule as `predict`."""
    made = trial.made
    texts = [
        Example(f"out of scope {k}", (Message("user", text),), Label(made.labels[0]))
        for k, text in enumerate(out_of_scope.TEXTS)
    ]
    sitting = trial.folder.sitting("robustness_scope", "tuned: texts that belong to no label")
    asked = evaluate.ask(
        trial.session, trial.snapshot, trial.recipe, replace(made, means=type(made.means)()), made.forms[0], texts,
        sitting,
    )  # fmt: skip
    sitting.forget()
    kept = trial.folder.read(CALIBRATION)
    calibration = Calibration.of(kept)
    likeliest = top(label_logps(asked, made.labels), calibration.temperature)
    unsure = [calibration.is_unsure(float(p)) for p in likeliest]
    sure = [p >= out_of_scope.SURE if u is None else not u for p, u in zip(likeliest, unsure)]
    frac = kept["held_out"].get("unsure_frac")
    return out_of_scope.sure_share(sure, asked.texts(), None if frac is None else 1 - frac, trial.recipe.evals.alpha)
