"""A trained reward model as a reward: the score that its head gives a reply."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from tunesmith.data.pack import pack
from tunesmith.data.render import Renderer
from tunesmith.engine.precision import choose_device, choose_dtype
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Who
from tunesmith.errors import RecipeError
from tunesmith.evals.score import by_example
from tunesmith.evals.tasks import replies_record
from tunesmith.models.load import load
from tunesmith.rollouts import kinds
from tunesmith.rollouts.parts import Part
from tunesmith.types import Attempt, Grade, Message, Record, Segment

MICRO_TOKENS = 4096  # scored at once


class RewardModel:
    """A roles.Reward. Attempts at one example that stand side by side have their prompt computed once; each is scored
    with its end of turn, whether it was written or not. `least`: of a reply that the model's context has no room
    for."""

    def __init__(self, session: Session, who: Who, renderer: Renderer, least: float) -> None:
        assert session.base.scores, "a model without a head of one output scores nothing"
        self.session, self.who, self.renderer, self.least = session, who, renderer, least

    def __call__(self, attempts: Sequence[Attempt]) -> list[Grade]:
        records = [self.record(str(n), list(some)) for n, (_, some) in enumerate(groupby(attempts, key=asked))]
        scores = self.scores([shorter for record in records if (shorter := self.fitting(record)).num_learned])
        return [
            Grade(next(scores[record.example_id]))
            if self.fits(record, reply)
            else Grade(self.least, why="longer than the reward model's context", is_graded=False)
            for record in records
            for reply in record.segments[1:]
        ]

    def record(self, name: str, some: Sequence[Attempt]) -> Record:
        replies = [Message("assistant", attempt.text) for attempt in some]
        return replies_record(self.renderer, name, some[0].example.prompt, replies)

    def fits(self, record: Record, reply: Segment) -> bool:
        context = self.session.base.context_tokens
        return context is None or len(record.segments[0].tokens) + len(reply.tokens) <= context

    def fitting(self, record: Record) -> Record:
        root, *replies = record.segments
        return Record(record.example_id, (root, *[reply for reply in replies if self.fits(record, reply)]))

    def scores(self, records: Sequence[Record]) -> dict[str, Iterator[float]]:
        """Of each record those of its replies, in their order."""
        found: dict[str, Iterator[float]] = {}
        for forest in pack(records, MICRO_TOKENS, self.session.base.rope):
            [score_L] = self.session.scores(self.who, [forest])
            found |= {name: iter(values) for name, values in by_example(forest, score_L).items()}
        return found


def asked(attempt: Attempt) -> str:
    return attempt.example.id


def open_reward(name: str, least: float = -math.inf) -> RewardModel:
    """From a folder that `AutoModelForSequenceClassification` opens, such as a run's merged/."""
    device, _ = choose_device()
    base = load(name, choose_dtype(device)[0], device, door="scores")
    if not base.head.weight.any():
        raise RecipeError(
            f"the reward model {name} has no head of one output: it would give every reply 0. Train one (task.name: "
            "reward), and name its merged/ folder"
        )
    return RewardModel(Session(base), None, Renderer(base.tokenizer, base.context_tokens or MICRO_TOKENS), least)


def reward_model(options: kinds.RewardModel, name: str) -> Part:
    low, high = options.clip
    return Part(name, low, high, open_reward(options.model, low))
