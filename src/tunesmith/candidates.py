"""Which model to tune: those that are here, asked a part of the data's dev split before anything is trained.

Two things are measured on the same cases. Bits per byte: how well a model foretells the reference answers (for labels,
which are too short for that, the texts that are labelled). Score: the task's own metric, with a few solved examples in
the prompt. Test cases are not looked at.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.build import compute, load_base, prompt_text, read_split
from tunesmith.data.ingest import infer_task
from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.errors import DataError, InputError, PlanError, TunesmithError
from tunesmith.evals.metrics import Metric
from tunesmith.evals.score import chosen, label_logps
from tunesmith.evals.tasks import (
    KINDS,
    Form,
    answer_text,
    few,
    label_record,
    labels_of,
    own_instruction,
    references,
)
from tunesmith.fit import CHARS_PER_TOKEN
from tunesmith.folder import Teller
from tunesmith.generate.limits import Limits
from tunesmith.measured import metrics_of
from tunesmith.models.catalogue import known
from tunesmith.models.here import Here, all_here, looked_at, memory_gib, named
from tunesmith.ranked import Board, Found, Ranking, Room, choose, notes_of, row_of
from tunesmith.recipe import Recipe
from tunesmith.types import Example, Label, Message, Record, Reply, Segment
from tunesmith.unasked import refuse_command

CHUNK = 8  # cases between two looks at the clock
LEAST_CASES = 12  # fewer tell nothing
MOST_CHARS = 2_000  # of a text whose bits are taken
MOST_NEW_TOKENS = 256  # of an answer; a run takes up to 512
NUM_REPLIES = 200  # of training, from which the longest answer is guessed


@dataclass(frozen=True, slots=True)
class Asked:
    """How much is asked."""

    shots: int = 4
    cases: int = 48
    budget_s: float = 600.0  # for all candidates together, loading included; looked at every few cases


@dataclass(frozen=True, slots=True)
class Job:
    """The data as every candidate is asked it."""

    recipe: Recipe
    task: str
    metric: Metric
    labels: tuple[str, ...]  # empty where texts are written
    instruction: str
    form: Form
    cases: tuple[Example, ...]  # of dev, in an order that no file decides
    num_dev: int
    replies: tuple[str, ...]  # of training
    usual: str  # the commonest of them

    @property
    def bits_of(self) -> str:
        return "text" if self.labels else "answer"

    def scored_text(self, example: Example) -> str:
        """What bits per byte are about."""
        return prompt_text(example)[:MOST_CHARS] if self.labels else answer_text(example)


def job_of(recipe: Recipe, asked: Asked) -> Job:
    """Reads and splits the data as a run of this recipe would. Raises InputError where there is nothing to ask."""
    main, parts, _ = read_split(recipe, None)
    task = infer_task(main.columns, main) if recipe.task.name == "auto" else recipe.task.name
    kind = KINDS[task]
    refuse_command(task, "candidates are ranked by their answers, and the data holds", "compare runs on it instead")
    odd = next((e for e in main.examples if not isinstance(e.target, (Reply, Label))), None)
    if odd is not None:
        raise InputError(f"{odd.source} is no reply and no label; candidates are ranked on those only")
    labels = labels_of((*parts.train, *parts.dev)) if kind.scoring == "likelihood" else ()
    instruction = own_instruction(task, labels, (*parts.train, *parts.dev))
    if recipe.task.instruction is not None:
        instruction = recipe.task.instruction
    most = recipe.data.max_tokens * CHARS_PER_TOKEN
    short = [e for e in parts.dev if len(prompt_text(e)) + len(answer_text(e)) <= most]
    if not short:
        raise DataError(
            f"there is no dev case of at most {recipe.data.max_tokens} tokens to ask the candidates: give a dev file, "
            "a data.dev_frac above 0, or a larger data.max_tokens"
        )
    order = sorted(short, key=lambda e: hashlib.sha256(e.id.encode()).digest())
    replies = tuple(answer_text(e) for e in parts.train)
    form = Form("few", "system" if instruction else "none", few(parts.train, asked.shots, labels))
    usual = Counter(replies).most_common(1)[0][0] if replies else ""
    primary, others = metrics_of(recipe.task.metric, kind)
    metric = next(m for m in (*primary, *others) if m.needs == "answer")  # each task has one that reads the answer
    return Job(
        recipe, task, metric, labels, instruction, form, tuple(order[: asked.cases]), len(parts.dev), replies, usual
    )


def inventory(folders: Sequence[Path] = ()) -> dict[str, Any]:
    """What is here, what each would take of the memory that is free, what looks like a model and cannot be used, and
    the known ones that are not here."""
    where = compute(Recipe())
    each, free = where.dtype.itemsize, memory_gib(where.device)
    rows = []
    check_named(folders)
    found, unusable = looked_at(folders)
    for model in found:
        needs = {"full": model.full_gib(each), "lora": model.need_gib(each), "answers": model.answer_gib(each)}
        rows.append({**asdict(model), "needs_gib": needs, "fits": {way: need <= free for way, need in needs.items()}})
    there = {row["name"] for row in rows}
    return {
        "free_gib": free,
        "device": where.device,
        "precision": str(where.dtype).removeprefix("torch."),
        "here": rows,
        "unusable": [asdict(model) for model in unusable],
        "not_here": [model for model in known() if model["name"] not in there],
    }


def located(folders: Sequence[Path]) -> list[Here]:
    """All that are here and in these folders, in which there must be one."""
    check_named(folders)
    return all_here(folders)


def check_named(folders: Sequence[Path]) -> None:
    """Raises where a folder that somebody named holds no model."""
    for folder in folders:
        named(str(folder))
        if not folder.expanduser().is_dir():
            raise InputError(f"--folder {folder}: there is no such folder")


def candidates(names: Sequence[str], folders: Sequence[Path] = ()) -> list[Here]:
    """The models of these names, or all that are here. Nothing is downloaded: one that is not here is an InputError."""
    if not names:
        found = located(folders)
        if not found:
            raise InputError("no model is on this machine yet: `tunesmith models fetch smollm2-135m-instruct`")
        return found
    wanted = {name: named(name) for name in dict.fromkeys([*names, *map(str, folders)])}
    missing = [name for name, model in wanted.items() if model is None]
    if missing:
        fetch = " && ".join(f"tunesmith models fetch {name}" for name in missing)
        raise InputError(
            f"not on this machine: {', '.join(missing)}. Nothing is downloaded to rank it; first: `{fetch}`"
        )
    return [model for model in wanted.values() if model is not None]


def rank(recipe: Recipe, models: Sequence[Here], asked: Asked, tell: Teller) -> Ranking:
    """Asks every candidate the same cases and says which one it would take. One model is in memory at a time."""
    job = job_of(recipe, asked)
    where = compute(recipe)
    room = Room(where.dtype.itemsize, memory_gib(where.device))
    tell.stage(f"{len(models)} models on {len(job.cases)} of {job.num_dev} dev cases", asked.budget_s)
    until = time.monotonic() + asked.budget_s
    found = []
    for index, model in enumerate(models):
        began, first = time.monotonic(), index * len(job.cases)

        def progress(done: int, first: int = first, name: str = model.name) -> None:
            tell.step(first + done, len(models) * len(job.cases), name)

        one = Found(model)
        wanted = model.answer_gib(room.bytes_each)
        if wanted > room.free_gib:
            one.problem = f"wants about {wanted:.1f} GiB to answer at all, {room.free_gib:.1f} GiB are free"
        else:
            share_s = max(0.0, until - began) / (len(models) - index)
            ask(job, one, share_s, progress)
        one.seconds = time.monotonic() - began
        if len(one.nats) < len(job.cases):
            progress(len(job.cases))
        found.append(one)
    return ranking(job, found, asked, room)


def ask(job: Job, one: Found, share_s: float, progress: Callable[[int], None]) -> None:
    """One candidate, a few cases at a time, until its share of the time is over. What goes wrong is its problem."""
    until = time.monotonic() + share_s
    recipe = replace(job.recipe, model=one.here.name)
    progress(0)
    try:
        base = load_base(recipe, compute(recipe))
        if base.by_head:
            raise PlanError("it gives classes by a head, and candidates are ranked by what they foretell and write")
        limits = recipe.data.max_tokens, recipe.data.too_long
        session, renderer = Session(base), Renderer(base.tokenizer, *limits, base.layout)
        one.tokens_per_word = words_cost(base.tokenizer, [prompt_text(e) + "\n" + answer_text(e) for e in job.cases])
        last_s = 0.0
        for begin in range(0, len(job.cases), CHUNK):
            began = time.monotonic()
            if began + last_s > until:  # as long as the last few took, and these would end too late
                break
            chunk = job.cases[begin : begin + CHUNK]
            nats = foretold(job, session, renderer, chunk)
            one.answers += answered(job, session, renderer, chunk)
            one.nats += nats
            progress(begin + len(chunk))
            last_s = time.monotonic() - began
    except TunesmithError as error:
        one.problem = str(error)
        return
    least = min(LEAST_CASES, len(job.cases))
    if len(one.nats) < least:
        one.problem = f"only {len(one.nats)} cases in its {share_s:.0f} s, {least} are wanted: raise --seconds"


def words_cost(tokenizer: Any, texts: Sequence[str]) -> float:
    """Tokens a word, words being what stands between white space."""
    num_tokens = sum(len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"])
    return float(num_tokens / max(1, sum(len(text.split()) for text in texts)))


def foretold(job: Job, session: Session, renderer: Renderer, cases: Sequence[Example]) -> list[float]:
    """Nats of each case's scored text. The end of turn does not count: a model may not know it yet."""
    if job.bits_of == "text" and session.base.layout == "seq2seq":
        raise PlanError("an encoder-decoder foretells replies only, and for labels models are ranked by texts")
    records = {}
    for example in cases:
        context, tokens = (
            text_tokens(session.base.tokenizer, job.scored_text(example))
            if job.bits_of == "text"
            else answer_tokens(job, session, renderer, example)
        )
        if tokens:
            ids = [np.array(part, dtype=np.int64) for part in (context, tokens)]
            root = Segment(ids[0], np.zeros(len(context), np.float32))
            records[example.id] = Record(example.id, (root, Segment(ids[1], np.ones(len(tokens), np.float32), 0)))
    forests = pack(list(records.values()), job.recipe.train.micro, session.base.rope)
    logps = label_logps(forests, session.logprobs(None, forests), 1)
    return [-float(logps[e.id][0]) if e.id in records else 0.0 for e in cases]


def text_tokens(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """(what stands before it, the text): behind the token that begins every text of this model, or else a new line."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    begins = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    lead = [tokenizer.bos_token_id] if begins else tokenizer("\n", add_special_tokens=False)["input_ids"]
    return lead, ids


def answer_tokens(job: Job, session: Session, renderer: Renderer, example: Example) -> tuple[list[int], list[int]]:
    """(prompt with its solved examples, reference answer without its end of turn)."""
    prompt = job.form.prompt(example, job.instruction)
    context = renderer.prompt(prompt)
    reply = renderer.reply(prompt, Message("assistant", answer_text(example)))[:-1]
    refuse_long(session, len(context) + len(reply), job)
    return context, reply


def refuse_long(session: Session, num_tokens: int, job: Job) -> None:
    context = session.base.context_tokens
    if context is not None and num_tokens > context:
        raise InputError(
            f"a case with its {len(job.form.shots)} solved examples takes {num_tokens} tokens, its context is "
            f"{context}: lower --shots"
        )


def answered(job: Job, session: Session, renderer: Renderer, cases: Sequence[Example]) -> list[str]:
    """The likeliest label, or the greedy answer."""
    prompts = [job.form.prompt(e, job.instruction) for e in cases]
    if job.labels:
        records = [label_record(renderer, e.id, p, job.labels) for e, p in zip(cases, prompts)]
        forests = pack(records, job.recipe.train.micro, session.base.rope)
        return [a.text for a in chosen(forests, session.logprobs(None, forests), [e.id for e in cases], job.labels)]
    tokens = [renderer.prompt(p) for p in prompts]
    sample = job.replies[:: max(1, len(job.replies) // NUM_REPLIES)]
    lengths = sorted(map(len, session.base.tokenizer(list(sample), add_special_tokens=False)["input_ids"]))
    most = min(MOST_NEW_TOKENS, int(1.25 * lengths[int(0.99 * (len(lengths) - 1))]) + 8)
    refuse_long(session, max(map(len, tokens)) + most, job)
    limits = Limits(most, renderer.stop_ids, seed=job.recipe.seed, rows=CHUNK)
    return [c.text for c in session.sample(None, tokens, limits, decode=renderer.text)]


def ranking(job: Job, found: Sequence[Found], asked: Asked, room: Room) -> Ranking:
    """Everything on the cases that all ranked candidates were asked."""
    able = [f for f in found if not f.problem]
    num = min((len(f.nats) for f in able), default=0)
    for one in able:
        one.answers, one.nats = one.answers[:num], one.nats[:num]
    board = Board(job.metric, references(job.cases[:num]), [len(job.scored_text(e).encode()) for e in job.cases[:num]])
    choice, why = choose(board, [f for f in able if room.holds(f.here)])
    order = sorted(able, key=lambda f: (f is not choice, -board.gain(f), board.bits(f)))
    rows = [row_of(f, board, room) for f in [*order, *(f for f in found if f.problem)]]
    usual = None
    if job.labels and num:
        usual = (job.usual, float(job.metric.corpus([job.usual] * num, board.wanted)))
    notes = notes_of(board, able, usual, choice)
    if job.metric.name != (job.recipe.task.first or job.metric.name):
        notes.append(f"{job.recipe.task.first} is not taken here; the score is {job.metric.name}")
    return Ranking(
        job.task, job.metric.name, job.metric.unit, job.bits_of, num, job.num_dev, len(job.form.shots), asked.budget_s,
        room.free_gib, tuple(rows), usual, choice.here.name if choice else None, why, tuple(notes),
    )  # fmt: skip
