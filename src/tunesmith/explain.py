"""Why the tuned model answers a held-out case as it does: the words of the prompt, and the training examples.

Words: how much less probable the answer is without them (occlusion: Li et al. 2016, https://arxiv.org/abs/1612.08220),
checked by taking out the strongest together against as many taken out at random (comprehensiveness: DeYoung et al.
2020, https://arxiv.org/abs/1911.03429). Examples: the cosine of the gradient of the answer's loss with that of each
example's, in the tuned parameters (Pruthi et al. 2020, https://arxiv.org/abs/2002.08484; Xia et al. 2024,
https://arxiv.org/abs/2402.04333): an example that pulled the same way is near 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch import nn

from tunesmith.build import MOST_COMPARED, Material, drawn_numbers, material, prompt_text
from tunesmith.data.pack import pack
from tunesmith.data.split import Ledger
from tunesmith.engine.gradients import dot, gradient, norm
from tunesmith.errors import InputError, did_you_mean
from tunesmith.evals import dialogues
from tunesmith.evals.score import label_logps
from tunesmith.models.noise import KeyedDropout
from tunesmith.opened import TUNED, Opened
from tunesmith.types import Example, Message, Record, Segment
from tunesmith.unasked import refuse_command

TOP_FRAC = 0.2  # of the spans, taken out together by the check
MOST_BYTES = 2**31  # of gradients of cases that are held at once
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How closely to look."""

    most_spans: int = 48  # of a prompt; a longer one is taken in runs of words
    num_random: int = 24
    num_near: int = 30  # training examples with the likest words, of each case
    num_drawn: int = 30  # of the others, the same for all cases


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the prompt; `drop`: nats by which the answer is less probable without it."""

    text: str
    drop: float


@dataclass(frozen=True, slots=True)
class Check:
    """What the strongest spans, and as many random ones, are worth together."""

    num_spans: int
    top_drop: float
    random_drop: float
    random_as_strong: int  # random choices that moved the answer as much
    num_random: int


@dataclass(frozen=True, slots=True)
class Pull:
    """A training example, and the cosine of its gradient with the answer's."""

    source: str
    prompt: str
    reply: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Explained:
    example_id: str
    source: str
    prompt: str
    reference: str
    base_output: str
    tuned_output: str
    spans: tuple[Span, ...]
    check: Check | None  # None: the prompt is too short to take words out of it
    pulls: tuple[Pull, ...]  # the strongest first, then the strongest the other way
    num_compared: int

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def find_case(folder: Path, wanted: str) -> dict[str, Any]:
    """The held-out case with this id (or its beginning), place in a file, or number in the report."""
    path = folder / "scores" / "cases.parquet"
    if not path.is_file():
        raise InputError(f"{folder} has no answered cases yet (no scores/cases.parquet): let the run end first")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    found = [r for r in rows if wanted in (r["source"], Path(r["source"]).name) or r["example_id"].startswith(wanted)]
    if len(found) == 1:
        if found[0].get("tuned_output") is None:
            raise InputError(f"{folder} has no answers of the tuned model yet: let the run end first")
        return found[0]
    if found:
        raise InputError(f"{len(found)} cases begin with {wanted!r}: write more of the id")
    names = [Path(r["source"]).name for r in rows]
    raise InputError(
        f"{folder} has no held-out case {wanted!r}; wanted an id or a place such as {names[0]}, as the report shows "
        f"them.{did_you_mean(wanted, names)}"
    )


def explain(opened: Opened, folder: Path, case: dict[str, Any], effort: Effort, progress: Progress) -> Explained:
    """Everything about one case. The data that the run was made from must still be there."""
    why = "to explain is to say why an answer was given, and this run is about"
    refuse_command(opened.served.task, why, "its report shows each document or pair")
    made = material(opened.recipe, opened.session.base, Ledger.load(folder / "ledger.json"))
    if all(e.id != case["example_id"] for e in made.split.test):
        raise InputError(f"{case['source']} is no held-out case any more: the data changed since the run")
    [found] = explain_all(opened, made, [case], effort, progress)
    return found


class OutOfTime(Exception):
    """Raised by a `progress` that has no more time to give."""


def explain_all(
    opened: Opened, made: Material, rows: Sequence[Mapping[str, Any]], effort: Effort, progress: Progress
) -> list[Explained]:
    """Each row of cases.parquet explained. Where `progress` is out of time, the cases that have no words yet are left
    out, and fewer training examples are compared."""
    by_id = {e.id: e for e in made.split.test}
    asked = [last_turn(by_id[row["example_id"]], row) for row in rows]
    read: list[tuple[Mapping[str, Any], Sequence[Message], tuple[list[Span], Check | None]]] = []
    try:
        for example, row in asked:
            prompt = made.forms[0].prompt(example, made.instruction)
            seen = words(opened, prompt, row["tuned_output"], opened.recipe.seed, progress, effort)
            read.append((row, prompt, seen))
    except OutOfTime:
        if not read:
            return []
    chosen = candidates(made, [by_id[row["example_id"]] for row, *_ in read], effort, opened.recipe.seed)
    answered = [answer_record(opened, row["example_id"], prompt, row["tuned_output"]) for row, prompt, _ in read]
    cosines = compared(opened, answered, [made.train.records[i] for i in chosen], progress)
    wanted = {made.train.records[i].example_id for i in chosen}
    examples = {e.id: e for e in made.split.train if e.id in wanted}
    found = []
    for (row, _, (spans, check)), likes in zip(read, cosines):
        pulls = [
            Pull(e.source, prompt_text(e), reply_of(e), cosine)
            for cosine, i in sorted(zip(likes, chosen), reverse=True)
            if (e := examples.get(made.train.records[i].example_id)) is not None
        ]
        texts = {
            k: row[k] or "" for k in ("example_id", "source", "prompt", "reference", "base_output", "tuned_output")
        }
        found.append(Explained(**texts, spans=tuple(spans), check=check, pulls=tuple(pulls), num_compared=len(pulls)))
    return found


def last_turn(example: Example, row: Mapping[str, Any]) -> tuple[Example, Mapping[str, Any]]:
    """What is explained of a dialogue that was played through: its last answer, behind the ones that were given."""
    if not row.get("turns"):
        return example, row
    *earlier, last = row["turns"]
    put = dialogues.behind(example, [turn["tuned_output"] for turn in earlier], last["tuned_left_out"])
    return put, {**row, **last, "prompt": prompt_text(put)}


def reply_of(example: Example) -> str:
    return getattr(example.target, "text", "") or getattr(example.target, "name", "")


def answer_record(opened: Opened, name: str, prompt: Sequence[Message], answer: str) -> Record:
    """The prompt, and the answer with its end as what is scored."""
    root = np.array(opened.renderer.prompt(prompt), dtype=np.int64)
    reply = np.array(opened.renderer.reply(prompt, Message("assistant", answer)), dtype=np.int64)
    parts = (Segment(root, np.zeros(len(root), np.float32)), Segment(reply, np.ones(len(reply), np.float32), 0))
    return Record(name, parts)


def split_spans(text: str, most: int) -> list[str]:
    """The text cut before words, so that the pieces together are the text again; at most `most` of them."""
    pieces = re.findall(r"\s*\S+", text)
    if pieces:
        pieces[-1] += text[sum(map(len, pieces)) :]
    size = -(-len(pieces) // most)
    return ["".join(pieces[i : i + size]) for i in range(0, len(pieces), size)] if pieces else []


def words(
    opened: Opened, prompt: Sequence[Message], answer: str, seed: int, progress: Progress, effort: Effort
) -> tuple[list[Span], Check | None]:
    """Each span of the last user turn with what the answer loses without it, and the check of the strongest."""
    at = max(i for i, m in enumerate(prompt) if m.role == "user")
    pieces = split_spans(prompt[at].content, effort.most_spans)
    everything = np.ones(len(pieces), dtype=bool)

    def logps(kept_RS: np.ndarray, text: str) -> np.ndarray:
        """[R] nats of the answer with these spans kept."""
        records = []
        for index, kept_S in enumerate(kept_RS):
            content = "".join(p for p, k in zip(pieces, kept_S) if k).strip()
            changed = (*prompt[:at], Message("user", content), *prompt[at + 1 :])
            records.append(answer_record(opened, str(index), changed, answer))
        forests = pack(records, opened.recipe.train.micro, opened.session.base.rope)
        scored = []
        for done, batch in enumerate(forests):
            progress(done, len(forests), text)
            scored += opened.session.logprobs(opened.who(TUNED), [batch])
        found = label_logps(forests, scored, 1)
        return np.array([found[str(i)][0] for i in range(len(kept_RS))])

    without = ~np.eye(len(pieces), dtype=bool)
    found = logps(np.vstack([everything, without]), "words taken out one by one")
    drop_S = found[0] - found[1:]
    spans = [Span(p, float(d)) for p, d in zip(pieces, drop_S)]
    num_top = max(1, round(TOP_FRAC * len(pieces)))
    if len(pieces) < 2 * num_top + 1:
        return spans, None
    out_RS = np.zeros((1 + effort.num_random, len(pieces)), dtype=bool)
    out_RS[0, np.argsort(-drop_S)[:num_top]] = True
    rng = np.random.default_rng(seed)
    for row in out_RS[1:]:
        row[rng.choice(len(pieces), num_top, replace=False)] = True
    dropped = found[0] - logps(~out_RS, "words taken out together")
    as_strong = int((dropped[1:] >= dropped[0]).sum())
    return spans, Check(num_top, float(dropped[0]), float(dropped[1:].mean()), as_strong, effort.num_random)


def candidates(made: Material, cases: Sequence[Example], effort: Effort, seed: int) -> list[int]:
    """Which training records are compared: the nearest of each case by words, and some drawn from the others."""
    records = made.train.records
    if len(records) <= effort.num_near + effort.num_drawn:
        return list(range(len(records)))
    pool = drawn_numbers((r.example_id for r in records), MOST_COMPARED)
    by_id = dict.fromkeys((records[i].example_id for i in pool), "")
    by_id |= {e.id: prompt_text(e) for e in made.split.train if e.id in by_id}
    texts = [by_id[records[i].example_id] for i in pool]
    from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit([*texts, "a"])
    weight_NV = vectorizer.transform(texts)
    nearest: dict[int, None] = {}
    for case in cases:
        near_N = np.asarray((weight_NV @ vectorizer.transform([prompt_text(case)]).T).todense())[:, 0]
        nearest |= dict.fromkeys(map(int, np.argsort(-near_N, kind="stable")[: effort.num_near]))
    rest = np.setdiff1d(np.arange(len(texts)), list(nearest))
    drawn = np.random.default_rng(seed).choice(rest, min(len(rest), effort.num_drawn), replace=False)
    return [pool[i] for i in (*nearest, *sorted(map(int, drawn)))]


def compared(
    opened: Opened, cases: Sequence[Record], records: Sequence[Record], progress: Progress
) -> list[list[float]]:
    """Of each case, its cosine with each record, as far as there is time."""
    step = max(
        1, MOST_BYTES // gradient_bytes(opened)
    )  # cases at once: a record's gradient is then made once for all of them
    found: list[list[float]] = [[] for _ in cases]
    if not records:
        return found
    total, done = -(-len(cases) // step) * len(records), 0
    try:
        for first in range(0, len(cases), step):
            progress(done, total, "training examples compared")
            for row in similarities(opened, cases[first : first + step], records):
                for likes, cosine in zip(found[first:], row):
                    likes.append(cosine)
                done += 1
                progress(done, total, "training examples compared")
    except OutOfTime:
        pass
    return found


def gradient_bytes(opened: Opened) -> int:
    """Of one gradient: float32, of what was tuned."""
    return 4 * sum(t.numel() for t in opened.session.tenants[TUNED].masters.values())


def similarities(opened: Opened, cases: Sequence[Record], records: Sequence[Record]) -> Iterator[list[float]]:
    """Of each record, the cosine of its gradient with that of each case, in the tuned parameters, without dropout."""
    for module in opened.session.base.model.modules():
        if isinstance(module, (nn.Dropout, KeyedDropout)):
            module.p = 0.0
        for name in {"dropout", "attention_dropout", "activation_dropout"} & vars(module).keys():  # numbers: BART
            setattr(module, name, 0.0)
    wanted = [gradient(opened.session, TUNED, case) for case in cases]
    sizes = [norm(g) for g in wanted]
    for record in records:
        other = gradient(opened.session, TUNED, record)
        length = norm(other)
        yield [dot(one, other) / max(size * length, 1e-30) for one, size in zip(wanted, sizes)]
