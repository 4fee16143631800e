"""Asks base and tuned the guard probes, and says of each: kept, lost, or not known.

What the base answers depends on the base alone; it is kept in the user's cache and asked once for each base.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.evals.probes import LEVELS, PROBES, How, Item, Probe, Written, result, stopping, support
from tunesmith.evals.score import label_logps, segment_sums
from tunesmith.files import cache_dir, write_json
from tunesmith.generate.limits import Limits
from tunesmith.models.load import Base
from tunesmith.types import GuardResult, Message, Record, Segment

MAX_NEW_TOKENS = 48
ROWS = 64  # answers written side by side
MICRO_TOKENS = 1024
SOURCED = ("summarise", "extract", "qa")  # tasks all of whose numbers and names should be found in the prompt
STEPS: dict[How, str] = {
    "choice": "multiple choice", "pair": "pairs of ends", "prose": "ordinary text", "answer": "written answers",
}  # fmt: skip
Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Asked:
    """By probe: how many items the level has, and of those that there was time for, the scores and what was written."""

    planned: dict[str, int] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    written: dict[str, list[Written]] = field(default_factory=dict)
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Asked:
        written = {name: [Written(**w) for w in rows] for name, rows in facts["written"].items()}
        return cls(facts["planned"], facts["scores"], written, facts["seconds"])

    @property
    def is_whole(self) -> bool:
        return all(len(self.scores[name]) == num for name, num in self.planned.items())


def ask(
    session: Session, who: Who, renderer: Renderer, level: str, budget_s: float, progress: Progress,
    probes: Sequence[Probe] | None = None,
) -> Asked:  # fmt: skip
    """A quarter of every probe's items, then the next, until `budget_s` is over: what is cut off is cut off evenly."""
    began, asked, probes = time.monotonic(), Asked(), probes_of(session.base) if probes is None else probes
    for probe in probes:
        asked.planned[probe.name], asked.scores[probe.name] = len(probe.items(level)), []
        if probe.how == "answer":
            asked.written[probe.name] = []
    steps = [(quarter, how) for quarter in range(LEVELS[level]) for how in STEPS]
    for number, (quarter, how) in enumerate(steps):
        if time.monotonic() - began > budget_s:
            break
        progress(number, len(steps), STEPS[how])
        pairs = [(probe, item) for probe in probes if probe.how == how for item in quarter_of(probe, quarter)]
        if pairs:
            put(asked, pairs, ASKING[how](session, who, renderer, pairs))
    progress(len(steps), len(steps), "guard probes")
    asked.seconds = round(time.monotonic() - began, 2)
    return asked


def probes_of(base: Base) -> list[Probe]:
    """Those that this model can be asked: an encoder-decoder foretells replies, and no ordinary text."""
    return [probe for probe in PROBES if probe.how != "prose" or base.layout != "seq2seq"]


def quarter_of(probe: Probe, quarter: int) -> list[Item]:
    items = probe.items()
    return items[math.ceil(quarter / 4 * len(items)) : math.ceil((quarter + 1) / 4 * len(items))]


def put(asked: Asked, pairs: Sequence[tuple[Probe, Item]], found: Sequence[float | Written]) -> None:
    """Scores, or answers that are scored here, to their probes."""
    for (probe, item), one in zip(pairs, found):
        if isinstance(one, Written):
            assert probe.score is not None
            asked.written[probe.name].append(one)
            asked.scores[probe.name].append(probe.score(item, one.text))
        else:
            asked.scores[probe.name].append(one)


def ask_base(session: Session, renderer: Renderer, level: str, budget_s: float, progress: Progress) -> Asked:
    """The base's answers: from the cache where this base was asked before, in this format, with this template."""
    path = kept_at(session.base, renderer, level)
    if path.is_file():
        return rescored(Asked.of(json.loads(path.read_text(encoding="utf-8"))))
    asked = ask(session, None, renderer, level, budget_s, progress)
    if asked.is_whole:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asked.facts())
    return asked


def rescored(asked: Asked) -> Asked:
    """Kept answers with the scores that today's checks give them: both models are judged by the same rule."""
    for probe in PROBES:
        if probe.score is not None:
            pairs = zip(probe.items(), asked.written[probe.name])
            asked.scores[probe.name] = [probe.score(item, w.text) for item, w in pairs]
    return asked


def kept_at(base: Base, renderer: Renderer, level: str) -> Path:
    """The file of the base's answers, named after all that decides them; data.max_tokens does not."""
    items = [[p.name, p.how, p.asks, p.items(level)] for p in PROBES]
    words = renderer.prompt([Message("user", json.dumps(PROBES[0].items(level)[:3]))])  # as this tokenizer cuts them
    where = [str(base.model.dtype), base.model.device.type]
    parts = [base.digest, renderer.template, words, renderer.stop_ids, *where, MAX_NEW_TOKENS, items]
    return (
        cache_dir() / "guards" / f"{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]}.json"
    )


def answers(session: Session, who: Who, renderer: Renderer, pairs: Sequence[tuple[Probe, Item]]) -> list[Written]:
    """Greedy answers to requests that stand alone, without the task's instruction."""
    prompts = [renderer.prompt([Message("user", probe.asks + item["text"])]) for probe, item in pairs]
    limits = Limits(MAX_NEW_TOKENS, renderer.stop_ids, rows=ROWS)
    done = session.sample(who, prompts, limits, decode=renderer.text)
    return [Written(c.text, c.stopped) for c in done]


def option_record(renderer: Renderer, name: str, item: Item) -> Record:
    """The question once, and each option as a learned child, without its end of turn: a model that answers in whole
    sentences would put little on an end after one word."""
    prompt = [Message("user", item["q"])]
    tokens = np.array(renderer.prompt(prompt), dtype=np.int64)
    children = []
    for option in item["a"]:
        reply = renderer.reply(prompt, Message("assistant", option))
        end = next((i for i, token in enumerate(reply) if token in renderer.stop_ids), len(reply))
        option_tokens = np.array(reply[:end], dtype=np.int64)
        children.append(Segment(option_tokens, np.ones(end, np.float32), 0))
    return Record(name, (Segment(tokens, np.zeros(len(tokens), np.float32)), *children))


def option_logps(
    session: Session, who: Who, renderer: Renderer, pairs: Sequence[tuple[Probe, Item]]
) -> list[np.ndarray]:
    """Nats of each option of each item. The options are branches of one tree, so that their order in the file is
    nothing that the model could see."""
    logps: dict[int, np.ndarray] = {}
    for num_options in sorted({len(item["a"]) for _, item in pairs}):
        mine = [(n, item) for n, (_, item) in enumerate(pairs) if len(item["a"]) == num_options]
        forests = pack([option_record(renderer, str(n), i) for n, i in mine], MICRO_TOKENS, session.base.rope)
        found = label_logps(forests, session.logprobs(who, forests), num_options)
        logps |= {n: found[str(n)] for n, _ in mine}
    return [logps[n] for n in range(len(pairs))]


def chosen(session: Session, who: Who, renderer: Renderer, pairs: Sequence[tuple[Probe, Item]]) -> list[float]:
    """1 where the first option of an item is likelier than every other."""
    return [float(logp[0] > logp[1:].max()) for logp in option_logps(session, who, renderer, pairs)]


def stereotyped(session: Session, who: Who, renderer: Renderer, pairs: Sequence[tuple[Probe, Item]]) -> list[float]:
    """What the second end of each item, the stereotyped one, has of the probability of both."""
    return [float(expit(logp[1] - logp[0])) for logp in option_logps(session, who, renderer, pairs)]


def text_record(tokenizer: Any, name: str, text: str) -> Record:
    tokens = np.array(tokenizer(text)["input_ids"], dtype=np.int64)
    weights = np.ones(len(tokens), np.float32)
    weights[0] = 0  # nothing predicts it
    return Record(name, (Segment(tokens, weights),))


def minus_bits(session: Session, who: Who, renderer: Renderer, pairs: Sequence[tuple[Probe, Item]]) -> list[float]:
    """Minus the bits per byte of each text, as plain text."""
    texts, tokenizer = [item["text"] for _, item in pairs], session.base.tokenizer
    forests = pack([text_record(tokenizer, str(n), t) for n, t in enumerate(texts)], MICRO_TOKENS, session.base.rope)
    nats: dict[str, float] = {}
    for forest, logp_L in zip(forests, session.logprobs(who, forests)):
        for segment, total in segment_sums(forest, logp_L).items():
            nats[forest.example_ids[int(forest.owner[segment])]] = total
    return [nats[str(n)] / math.log(2) / len(text.encode()) for n, text in enumerate(texts)]


ASKING: dict[How, Callable[..., Sequence[float | Written]]] = {
    "choice": chosen,
    "pair": stereotyped,
    "prose": minus_bits,
    "answer": answers,
}


def results(base: Asked, tuned: Asked) -> list[GuardResult]:
    """One result a probe that the tuned model was asked, on the items that both had time for, in their one order."""
    found, short = [], []
    for probe in PROBES:
        if probe.name in tuned.scores:
            one, other = base.scores[probe.name], tuned.scores[probe.name]
            num = min(len(one), len(other))
            found.append(result(probe, one[:num], other[:num], tuned.planned[probe.name]))
            if probe.is_short:
                short += list(zip(base.written[probe.name], tuned.written[probe.name]))
    num_planned = sum(tuned.planned.get(p.name, 0) for p in PROBES if p.is_short)
    if num_planned:
        found.append(stopping([b for b, _ in short], [t for _, t in short], num_planned))
    return found


def held_out(task: str, sources: Sequence[str], base: Sequence[str], tuned: Sequence[str]) -> list[GuardResult]:
    """Numbers and names of the answers to the task's own held-out cases, where the task has a source."""
    return [support(sources, base, tuned)] if task in SOURCED and sources else []


def losses(results: Sequence[GuardResult]) -> list[str]:
    """What was lost, and what would mend it: a sentence for each probe that failed."""
    return [
        f"lost: {g.name}, {g.base:.3g} → {g.tuned:.3g} (interval of the difference {g.interval[0]:+.2g} to "
        f"{g.interval[1]:+.2g}, {g.num_items} items). The tuned model {g.note}."
        for g in results
        if g.passed is False
    ]


@dataclass(frozen=True, slots=True)
class Work:
    """What one model is asked: records that are scored, and the lengths of the prompts that it answers."""

    records: list[Record]
    prompts: list[int]


def work(base: Base, renderer: Renderer, level: str) -> Work:
    """Of all probes of this level."""
    found = Work([], [])
    for probe in probes_of(base):
        for item in probe.items(level):
            if probe.how in ("choice", "pair"):
                found.records.append(option_record(renderer, "", item))
            elif probe.how == "prose":
                found.records.append(text_record(base.tokenizer, "", item["text"]))
            else:
                found.prompts.append(len(renderer.prompt([Message("user", probe.asks + item["text"])])))
    return found
