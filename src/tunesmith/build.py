"""Takes the recipe apart: the only code, with plan and run, that sees a whole one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith import classes, contaminated, mixed
from tunesmith.data import ingest, synthetic
from tunesmith.data.alike import places
from tunesmith.data.audit import Look, audit
from tunesmith.data.columns import Columns
from tunesmith.data.drawn import Drawing
from tunesmith.data.feed import FileFeed
from tunesmith.data.mixture import Mixture
from tunesmith.data.progress import Step, untold
from tunesmith.data.render import Rendered, Renderer
from tunesmith.data.split import SPLITS, Ledger, Split, keys_of, split
from tunesmith.data.stored import Chosen, Joined, Made
from tunesmith.engine.fisher import fisher
from tunesmith.engine.loop import State
from tunesmith.engine.precision import choose_device, choose_dtype
from tunesmith.engine.schedule import auto_lr
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.episodic import prompts_of
from tunesmith.errors import DataError
from tunesmith.evals import dialogues
from tunesmith.evals.metrics import Metric
from tunesmith.evals.tasks import Form, Kind, answer_text, forms, instructed, own_instruction
from tunesmith.heritage import Before, suited
from tunesmith.lineage import Parent
from tunesmith.measured import Means, brought, means_of, metrics_of, score_once
from tunesmith.method import heads_of, laying_of, longest_reply, objective_of, regularisers_of, taught
from tunesmith.models.load import Base, load
from tunesmith.models.teacher import load_teacher
from tunesmith.objectives.preference import Reference
from tunesmith.recipe import Recipe
from tunesmith.regularisers.still import Still
from tunesmith.replay import Replayed, general, in_share, replayed
from tunesmith.roles import Foretold
from tunesmith.rollouts.draws import Draws
from tunesmith.sources import files_of, ood_files, read_rows, read_train
from tunesmith.types import Example, Label, Record
from tunesmith.unasked import MAX_NEW_TOKENS, is_text, of_answers, refuse_metrics, suiting, task_of

TENANT = "tuned"
PAIRS_SLOWER = 0.3  # rate of learning from pairs and rewards, of that for replies (docs/methods/preferences.md)
MOST_COMPARED = 50_000  # training examples that are held at once, where their words are compared with those of cases
RENDERED = "training examples rendered"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Material:
    """What the data of a recipe becomes, before a model learns from it. Examples are as in the file; records carry the
    instruction."""

    task: str
    kind: Kind
    instruction: str
    primary: tuple[Metric, ...]  # what the verdict is about
    secondary: tuple[Metric, ...]
    means: Means
    labels: tuple[str, ...]
    renderer: Renderer
    split: Split  # test and dev as asked: at most evals.max_cases and max_dev_cases
    num_test: int  # before that
    train: Rendered
    dev: Rendered
    forms: tuple[Form, ...]
    max_new_tokens: int
    columns: Columns  # as the training file was understood
    files: dict[str, str]  # path -> SHA-256
    audit: dict[str, Any]
    calibration: tuple[Example, ...]  # of dev, for labels: at most evals.max_cases
    ood: tuple[Example, ...] = ()  # cases from elsewhere, at most evals.max_cases; none of them stands in training
    replay: Replayed = Replayed()  # noqa: RUF009 (frozen)
    before: Before | None = None  # the run that this one goes on from
    again: Replayed = Replayed()  # noqa: RUF009 (the same); rows that it learned from
    rejected: Sequence[ingest.Rejected] = ()  # all rows that could not be used, of every file
    reference: Reference | None = None  # of pairs: what is learned against, once it was computed
    plays: bool = False  # held-out dialogues are played through, and its metrics are of such
    mixture: Mixture | None = None  # of the training records, where there are sources

    @property
    def metric(self) -> Metric:
        """The first primary one, which decides where one metric has to: the base's form, slices, what a case scored."""
        return self.primary[0]

    @property
    def alone(self) -> Metric:
        """The same; where a judge decides, who compares two models, the task's own."""
        name = self.kind.metric if self.metric.needs == "judge" else self.metric.name
        return next(m for m in (*self.primary, *self.secondary) if m.name == name)

    @property
    def is_one_label(self) -> bool:
        """Whether an answer is one label of a closed set: such have one temperature, and one is given to any text."""
        return self.kind.scoring == "likelihood" and not self.renderer.several

    def references(self, cases: Sequence[Example]) -> list[Any]:
        return [dialogues.reference(e, plays=self.plays) for e in cases]

    def shown(self, example: Example) -> str:
        """The case as a person reads it; of a dialogue that is played through what the user says."""
        return prompt_text(dialogues.unanswered(example) if self.plays else example)

    def asked(self, form: Form, example: Example) -> list[int]:
        """Token ids from which a model goes on: the prompt as served; of a plain text its beginning."""
        if example.is_text:
            return self.renderer.plain.beginning(example)
        return self.renderer.prompt(form.prompt(example, self.instruction))


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and in which format the model runs, and why."""

    device: str
    device_why: str
    dtype: torch.dtype
    dtype_why: str
    processes: int = 1  # that train
    beside: int = 1  # of them on this machine


def compute(recipe: Recipe, lock: Mapping[str, Any] | None = None) -> Compute:
    """`lock`: of a run that goes on, whose precision stays."""
    device, device_why = choose_device()
    if lock is not None:
        dtype, why = DTYPES[lock["precision"]], "kept from the start of this run"
    elif recipe.precision == "auto":
        dtype, why = choose_dtype(device)
    else:
        dtype, why = DTYPES[recipe.precision], "said in the recipe"
    return Compute(device, device_why, dtype, why)


def load_base(recipe: Recipe, where: Compute, *, learns: bool = False) -> Base:
    """`learns`: with the teacher that it learns from, where the recipe names one."""
    base = load(recipe.model, where.dtype, where.device, classes.door_of(recipe), recipe.adapt.base_bits)
    base.extend(recipe.adapt.context, recipe.adapt.num_before)
    base.refuse_longer(recipe.data.max_tokens)
    if learns and recipe.objective.distil.share:
        base.teacher = load_teacher(recipe.objective.distil.teacher, base, recipe.data.max_tokens)
    return base


def drawn(examples: Sequence[Example], most: int) -> tuple[Example, ...]:
    """At most `most` of them, chosen by the hash of the id: no order of a file, and no clock, decides."""
    if len(examples) <= most:
        return tuple(examples)
    return tuple(examples[at] for at in drawn_numbers((e.id for e in examples), most))


def drawn_numbers(ids: Iterable[str], most: int) -> list[int]:
    chosen = nsmallest(most, ((hashlib.sha256(name.encode()).digest(), at) for at, name in enumerate(ids)))
    return sorted(at for _, at in chosen)


def read_split(
    recipe: Recipe, ledger: Ledger | None, step: Step = untold
) -> tuple[ingest.Ingested, Split, tuple[ingest.Ingested, ...]]:
    """The training file as it was understood, the split, and the files of dev and test, where there are such."""
    files = files_of(recipe)
    main = read_train(recipe, files["train"], step)
    of_others = recipe.data.columns if recipe.data.sources else main.columns  # of no source: inferred anew
    undated = replace(of_others, when=None)  # only rows that are drawn need their time
    others = {p: read_rows(recipe, files[p], undated, step) for p in files if p != "train"}
    given = {part: synthetic.real_of(read.examples) for part, read in others.items()}
    dev_frac, test_frac = (0.0 if p in given else getattr(recipe.data, f"{p}_frac") for p in ("dev", "test"))
    seed = recipe.seed if recipe.data.split_seed is None else recipe.data.split_seed
    real, drawing = synthetic.real_of(main.examples), Drawing(recipe.data.split_by, recipe.data.near_together, step)
    try:
        parts = split(real, dev_frac, test_frac, str(seed), ledger=ledger, given=given, drawing=drawing)
    except DataError as error:
        if main.columns.text is None:
            raise
        raise DataError(
            f"{error} Plain text is held out by whole documents: say what stands between two of one file, as in "
            "--set 'data.reading.separator=\\n\\n', or name a file with data.test"
        ) from error
    return main, synthetic.joined(parts, main.examples, keep=recipe.data.synthetic), tuple(others.values())


def read_ood(
    recipe: Recipe, columns: Columns, parts: Split
) -> tuple[tuple[Example, ...], dict[str, str], Sequence[ingest.Rejected]]:
    """Cases from elsewhere whose prompt or group stands in no split of the run, the digests of their files, and the
    rows that could not be used."""
    if not recipe.data.ood:
        return (), {}, ()
    read = read_rows(recipe, ood_files(recipe), replace(columns, when=None))
    known = np.unique(np.concatenate([keys_of(part) for part in (parts.train, parts.dev, parts.test)]))
    fresh = Chosen(read.examples, np.flatnonzero(places(known, keys_of(read.examples)) < 0))
    if not fresh:
        raise DataError(
            f"all {len(read.examples)} rows of data.ood also stand in train, dev or test; wanted cases from elsewhere"
        )
    return drawn(fresh, recipe.evals.max_cases), read.files, read.rejected


def material(
    recipe: Recipe, base: Base, ledger: Ledger | None = None, step: Step = untold, judged: Path | None = None,
    look: Look = audit,
) -> Material:  # fmt: skip
    """Read, split, render, and look at it all; data errors are said here. `judged` keeps what a reward's judges say."""
    means, before = means_of(recipe.evals, of_answers(recipe.task.metric or ())), suited(recipe, base)
    classes.refuse(recipe, base, before)
    ledger = before.ledger.handed_on() if before is not None and ledger is None else ledger
    main, parts, others = read_split(recipe, ledger, step)
    digests = {path: digest for read in (main, *others) for path, digest in read.files.items()}
    ood, ood_digests, ood_rejected = read_ood(recipe, main.columns, parts)
    task = task_of(recipe, main, ood, base.layout)
    refuse_metrics(task, recipe.task.metric or ())
    kind = classes.kind_of(recipe, base, task)
    recipe = suiting(recipe, task)
    means = brought(means, (kind.metric, *kind.secondary), recipe, judged)
    labels = classes.labels_in(base, parts, before, task)
    primary, secondary = metrics_of(recipe.task.metric, kind, means)
    score_once((*primary, *secondary))
    instruction = recipe.task.instruction
    if instruction is None:
        instruction = "" if base.by_head else own_instruction(task, labels, chain(parts.train, parts.dev, parts.test))
    renderer = classes.renderer_of(base, recipe, labels, task)
    told = lambda rows: Made(taught(rows, kind, parts.train), lambda e: instructed(e, instruction))
    train, mixture = mixed.rendered(
        recipe, renderer, main, parts.train, told, instruction, lambda n: step(n, len(parts.train), RENDERED)
    )
    step(len(parts.train), len(parts.train), RENDERED)
    if not train.records:
        raise DataError(
            f"none of the {len(parts.train)} training examples can be learned from; the first: "
            f"{train.dropped[0][1] if train.dropped else 'there is none'}"
        )
    learned = Chosen(train.records, mixture.drawn(0)) if mixture else train.records
    again = parents_rows(recipe, renderer, parts, learned, before, instruction)
    beside = replayed(recipe, renderer, parts, learned, lambda files: read_rows(recipe, files, Columns()))
    found = look(main, parts, train, others, contaminated.of_public_tests(recipe.data.benchmarks, parts.train, step))
    found = contaminated.told(found, recipe.data, parts, step, has_files=bool(others))
    if recipe.task.name != "auto":
        found["understood"] |= {"task": task, "task_why": "said in the recipe"}
    most = min(recipe.evals.max_cases, recipe.evals.judge.max_cases if primary[0].needs == "judge" else 10**9)
    few = replace(parts, dev=drawn(parts.dev, recipe.evals.max_dev_cases), test=drawn(parts.test, most))
    dev = renderer.records([instructed(e, instruction) for e in taught(few.dev, kind, parts.train)])
    plays = dialogues.plays(recipe.evals.history, task, few.test, primary)
    if plays:
        primary, secondary = (tuple(map(dialogues.over_turns, found)) for found in (primary, secondary))
    if base.by_head:
        tried, longest = classes.forms_of(base), len(labels) if renderer.several else 1
    else:
        tried = tuple(forms(parts.train, recipe.evals.few_shot, instruction, labels))
        usual = MAX_NEW_TOKENS if is_text(task) else longest_reply(train, kind, recipe.objective.policy)
        longest = recipe.evals.max_new_tokens or max(usual, before.max_new_tokens if before else 0)
    return Material(
        task, kind, instruction, primary, secondary, means, labels, renderer, few, len(parts.test), train, dev, tried,
        longest, main.columns, digests | ood_digests | dict(beside.files) | dict(again.files), found,
        drawn(parts.dev, recipe.evals.max_cases) if kind.scoring == "likelihood" and not renderer.several else (),
        ood, beside, before, again,
        rejected=reduce(Joined, (*(read.rejected for read in (main, *others)), ood_rejected, beside.rejected)),
        plays=plays, mixture=mixture,
    )  # fmt: skip


def parents_split(before: Before) -> tuple[Split, dict[str, str]]:
    """What a run learned from and held out, as its ledger knows it, and the digests of its files. Rows that these
    gained since are left out."""
    try:
        main, found, others = read_split(replace(before.recipe, parent=Parent()), before.ledger)
    except DataError as error:
        raise DataError(
            f"the rows of {before.folder} cannot be read again, and going on from it needs them: its held-out cases "
            f"are asked again: {error}"
        ) from error
    learned = before.ledger.places(keys_of(found.train)) == SPLITS.index("train")
    files = {path: digest for read in (main, *others) for path, digest in read.files.items()}
    return replace(found, train=Chosen(found.train, np.flatnonzero(learned))), files


def parents_rows(
    recipe: Recipe, renderer: Renderer, parts: Split, train: Sequence[Record], before: Before | None, instruction: str
) -> Replayed:
    """Rows that the parent learned from, and that are not among the new ones; none where nobody asked."""
    if before is None or not recipe.parent.replay:
        return Replayed()
    split_then, files = parents_split(before)
    rows = split_then.train
    mine = np.unique(np.concatenate([keys_of(part) for part in (parts.train, parts.dev, parts.test)]))
    fresh = Chosen(rows, np.flatnonzero(places(mine, keys_of(rows)) < 0))
    found = renderer.records(instructed(e, instruction) for e in fresh).records
    if not found:
        raise DataError(
            f"parent.replay: none of the {len(rows)} rows that {before.folder} learned from is missing among the new "
            "ones, so there is nothing to add: leave it out"
        )
    return replace(in_share(found, train, recipe.parent.replay, recipe.seed), what="earlier", files=files)


def feed_of(recipe: Recipe, base: Base, made: Material) -> FileFeed | Draws:
    t, laying = recipe.train, replace(laying_of(recipe, made.renderer), rope=base.rope)
    if made.kind.rewards:
        put = lambda e: instructed(e, made.instruction).prompt
        prompts = prompts_of(made.split.train, put, made.renderer, made.means.world, base.context_tokens)
        return Draws(prompts, recipe.objective.policy, t.epochs, recipe.seed, t.micro, base.rope)
    more = {r.what: r.records for r in (made.replay, made.again) if r.records}
    records = reduce(Joined, more.values(), made.train.records)
    mixture = mixed.with_all_of(made.mixture, made.train.records, more)
    return FileFeed(records, t.update_tokens, t.micro, t.epochs, recipe.seed, laying, mixture)


def num_updates(recipe: Recipe, feed: Foretold) -> int:
    most = recipe.train.max_updates
    return feed.num_updates if most is None else min(most, feed.num_updates)


def learning_rate(recipe: Recipe, base: Base, kind: Kind, updates: int) -> tuple[float, str]:
    if recipe.train.lr != "auto":
        return recipe.train.lr, "said in the recipe"
    lr, why = auto_lr(recipe.adapt.method, base.num_weights, updates)
    if kind.referred or kind.rewards:
        return float(f"{PAIRS_SLOWER * lr:.2g}"), f"{why}, x{PAIRS_SLOWER:g} for {kind.scoring}"
    return lr, why


def start(recipe: Recipe, session: Session, made: Material, updates: int, most_general: int | None = None) -> State:
    """The tenant at update 0, and what the loop needs to know of it. `most_general`: rows on which EWC measures."""
    weights = {}
    if recipe.regularise.ewc:
        rows = general(recipe, session.base.tokenizer, made.replay)[:most_general]
        weights = fisher(session.base, recipe.adapt, rows, recipe.seed)
    asked = regularisers_of(recipe, updates, weights)
    teacher, by_depth = session.base.teacher, recipe.train.by_depth
    if made.kind.referred or made.kind.rewards:
        asked = (*asked, Still())
    objective = objective_of(recipe, made.kind, made.split.train)
    heads, optim = heads_of(objective), recipe.train.optim
    session.create(TENANT, Spec(recipe.adapt, optim, recipe.seed, heads, asked, teacher=teacher, by_depth=by_depth))
    if made.before is not None:
        tenant = session.tenants[TENANT]
        fresh = {name: value for name, value in tenant.masters.items() if name.startswith("heads.")}
        kept = [name for name in tenant.masters if name not in fresh]
        tenant.start_from(made.before.values(kept, session.base.digest) | fresh)
    lr, _ = learning_rate(recipe, session.base, made.kind, updates)
    return State(TENANT, objective, recipe.train.schedule, lr, updates, on_nan=recipe.train.on_nan)


def prompt_text(example: Example) -> str:
    """The case as a person reads it; a plain text is all of it."""
    if example.is_text:
        return answer_text(example)
    turns = [m for m in example.prompt if m.role != "system"]
    return turns[0].content if len(turns) == 1 else "\n\n".join(f"{m.role}: {m.content}" for m in turns)


def is_labelled(cases: Sequence[Example]) -> bool:
    return all(isinstance(e.target, Label) for e in cases)
