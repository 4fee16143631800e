"""Asks base and tuned the guard probes, and says of each: passed, failed, or not known.

What the base answers depends on the base alone; it is kept in the user's cache and asked once for each base.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tunesmith.build import Material
from tunesmith.data.pack import pack
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.evals.probes import PROBES, Item, Probe, Written, result, stopping, support
from tunesmith.evals.score import label_logps, segment_sums
from tunesmith.evals.tasks import label_record
from tunesmith.files import cache_dir, write_json
from tunesmith.generate.limits import Limits
from tunesmith.types import GuardResult, Message, Record, Segment

MAX_NEW_TOKENS = 48
ROWS = 48
MICRO_TOKENS = 2048
SOURCED = ("summarise", "generate", "chat")  # tasks whose answers should be found in their prompts
Progress = Callable[[int, int, str], None]


@dataclass(slots=True)
class Asked:
    """Scores by probe, and all that was written. A probe that the budget left no time for is missing."""

    scores: dict[str, list[float]] = field(default_factory=dict)
    written: dict[str, list[Written]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Asked:
        written = {name: [Written(**w) for w in rows] for name, rows in facts["written"].items()}
        return cls({k: list(v) for k, v in facts["scores"].items()}, written)


def ask(
    session: Session, who: Who, made: Material, level: str, budget_s: float, progress: Progress,
    probes: Sequence[Probe] = PROBES,
) -> Asked:  # fmt: skip
    """All probes in their order, until `budget_s` is over: what was not asked is not known, and said to be."""
    began, asked = time.monotonic(), Asked()
    for number, probe in enumerate(probes):
        progress(number, len(probes), probe.name)
        if time.monotonic() - began > budget_s:
            break
        items = probe.items(level)
        if probe.how == "answer":
            written = answers(session, who, made, [i["text"] for i in items])
            assert probe.score is not None
            asked.written[probe.name] = written
            asked.scores[probe.name] = [probe.score(i, w.text) for i, w in zip(items, written)]
        else:
            asked.scores[probe.name] = (chosen if probe.how == "choice" else minus_bits)(session, who, made, items)
    progress(len(asked.scores), len(probes), "guard probes")
    return asked


def ask_base(session: Session, made: Material, level: str, budget_s: float, progress: Progress) -> Asked:
    """The base's answers: from the cache where this base was asked before, in this format, with this template."""
    path = cache_dir() / "guards" / f"{base_key(session, made, level)}.json"
    if path.is_file():
        return Asked.of(json.loads(path.read_text(encoding="utf-8")))
    asked = ask(session, None, made, level, budget_s, progress)
    if len(asked.scores) == len(PROBES):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asked.facts())
    return asked


def base_key(session: Session, made: Material, level: str) -> str:
    """Of all that decides the base's answers."""
    items = [[p.name, p.items(level)] for p in PROBES]
    model = session.base.model
    parts = [session.base.digest, made.renderer.digest, str(model.dtype), model.device.type, MAX_NEW_TOKENS, items]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def answers(session: Session, who: Who, made: Material, questions: Sequence[str]) -> list[Written]:
    """Greedy answers to questions that stand alone, without the task's instruction."""
    prompts = [made.renderer.prompt([Message("user", q)]) for q in questions]
    limits = Limits(MAX_NEW_TOKENS, made.renderer.stop_ids, rows=ROWS)
    done = session.sample(who, prompts, limits, decode=made.renderer.text)
    return [Written(c.text, c.stopped) for c in done]


def chosen(session: Session, who: Who, made: Material, items: Sequence[Item]) -> list[float]:
    """1 where the first option is likelier than every other as the answer, end of turn included."""
    scores = []
    for num_options in sorted({len(i["a"]) for i in items}):
        mine = [(n, i) for n, i in enumerate(items) if len(i["a"]) == num_options]
        records = [label_record(made.renderer, str(n), [Message("user", i["q"])], i["a"]) for n, i in mine]
        forests = pack(records, MICRO_TOKENS, session.base.rope)
        found = label_logps(forests, session.logprobs(who, forests), num_options)
        scores += [(n, float(found[str(n)][0] > found[str(n)][1:].max())) for n, _ in mine]
    return [score for _, score in sorted(scores)]


def minus_bits(session: Session, who: Who, made: Material, items: Sequence[Item]) -> list[float]:
    """Minus the bits per byte of each text, as plain text."""
    tokenizer = session.base.tokenizer
    records = []
    for number, item in enumerate(items):
        tokens = np.array(tokenizer(item["text"])["input_ids"], dtype=np.int64)
        weights = np.ones(len(tokens), np.float32)
        weights[0] = 0  # nothing predicts it
        records.append(Record(str(number), (Segment(tokens, weights),)))
    forests = pack(records, MICRO_TOKENS, session.base.rope)
    nats: dict[str, float] = {}
    for forest, logp_L in zip(forests, session.logprobs(who, forests)):
        for segment, total in segment_sums(forest, logp_L).items():
            nats[forest.example_ids[int(forest.owner[segment])]] = total
    return [nats[str(n)] / math.log(2) / len(i["text"].encode()) for n, i in enumerate(items)]


def results(base: Asked, tuned: Asked, made: Material, said: tuple[Sequence[str], Sequence[str]]) -> list[GuardResult]:
    """One result a probe. `said`: what base and tuned answered to the held-out cases."""
    found = []
    for probe in PROBES:
        if probe.name in base.scores and probe.name in tuned.scores:
            found.append(result(probe, base.scores[probe.name], tuned.scores[probe.name]))
        else:
            note = "not asked: evals.guard_budget_s was over"
            found.append(GuardResult(probe.name, 0.0, 0.0, 0.0, (0.0, 0.0), probe.margin, None, 0, note))
    both = [name for name in base.written if name in tuned.written]
    if both:
        found.append(stopping(*([w for name in both for w in asked.written[name]] for asked in (base, tuned))))
    if made.task in SOURCED and made.kind.scoring == "generation":
        sources = ["\n".join(m.content for m in e.prompt) for e in made.split.test]
        found.append(support(sources, *said))
    return found


def losses(results: Sequence[GuardResult]) -> list[str]:
    """What was lost, and what would mend it: a sentence for each probe that failed."""
    return [
        f"lost: {g.name}, {g.base:.3g} → {g.tuned:.3g} (interval of the difference {g.interval[0]:+.2g} to "
        f"{g.interval[1]:+.2g}, {g.num_items} items). The tuned model {g.note}."
        for g in results
        if g.passed is False
    ]
