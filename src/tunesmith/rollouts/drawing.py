"""A sampling: the next prompts are answered several times each by whoever samples, graded and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import RunError
from tunesmith.generate.limits import Limits
from tunesmith.objectives.advantage import is_flat
from tunesmith.objectives.policy import has_values, method_of
from tunesmith.roles import Reward
from tunesmith.rollouts.draws import Draws, Stage
from tunesmith.rollouts.episodes import Episode, Whole, graded, play
from tunesmith.rollouts.sampled import Rollout
from tunesmith.rollouts.served import Server
from tunesmith.types import Attempt, Completion, Grade

SHOWN = 200  # characters of a reply that an error shows


@dataclass(frozen=True, slots=True)
class Actor:
    """Who answers. `reference`: the model as it was before update 0; None: the base."""

    session: Session
    tenant: str
    reference: Snapshot | None = None
    rows: int = 48  # answered side by side
    server: Server | None = None  # None: the session samples

    def holding(self, update: int) -> AbstractContextManager[None]:
        """Whoever samples has the weights as they are now."""
        return self.server.holding(update) if self.server else nullcontext()

    def sample(
        self, prompts: Sequence[Sequence[int]], limits: Limits, decode: Callable[[Sequence[int]], str]
    ) -> list[Completion]:
        if self.server:
            return self.server.sample(prompts, limits, decode)
        return self.session.sample(self.tenant, prompts, limits, decode=decode)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of a sampling. `weights_of`: how many updates had made the weights that sampled; `num_prompts`: drawn
    in the run so far."""

    found: list[Rollout]
    attempts: list[Attempt]
    num_draws: int
    weights_of: int
    num_prompts: int


class Drawer:
    """Samples as the draws say. `position` is the number of updates before the one that a sampling is for."""

    def __init__(self, draws: Draws, actor: Actor, reward: Reward) -> None:
        self.draws, self.actor, self.reward = draws, actor, reward
        self.asked, self.method = draws.asked, method_of(draws.asked)

    def begun(self, position: int, num_prompts: int, weights_of: int | None = None) -> Callable[[], Drawn]:
        """A sampling by the weights as they are now, whenever what is returned is called: once."""
        held = ExitStack()
        held.enter_context(self.actor.holding(position + 1))

        def draw() -> Drawn:
            with held:
                return self._all(position, num_prompts, position if weights_of is None else weights_of)

        return draw

    def _all(self, position: int, num_prompts: int, weights_of: int) -> Drawn:
        """Draws until something can be learned; where the method refills, until as many groups as are drawn at a time
        tell replies apart. Both end after `patience` draws."""
        asked = self.asked
        wanted = asked.prompts if self.method.refills else 1
        found: list[Rollout] = []
        attempts: list[Attempt] = []
        num_live = num_draws = 0
        while num_live < wanted and num_draws < asked.patience:
            chosen = [self.draws.at(num_prompts + k) for k in range(asked.prompts)]
            some, replies = self._draw(chosen, position, num_draws)
            num_prompts += asked.prompts
            found, attempts, num_draws = found + some, attempts + replies, num_draws + 1
            num_live = sum(not r.is_flat for r in found[:: asked.group_size])
        return Drawn(found, attempts, num_draws, weights_of, num_prompts)

    def _draw(self, chosen: Sequence[int], position: int, number: int) -> tuple[list[Rollout], list[Attempt]]:
        """The replies to these prompts, those of a prompt side by side, graded and compared."""
        asked, actor, prompts = self.asked, self.actor, self.draws.prompts
        each = [at for at in chosen for _ in range(asked.group_size)]
        seed = self.draws.seed_of(position, number)
        limits = Limits(
            asked.max_new_tokens, prompts.stop_ids, asked.temperature, seed=seed, rows=actor.rows, tempered=True
        )
        if prompts.stage is None:
            done = actor.sample([prompts.tokens[at] for at in each], limits, prompts.decode)
            attempts = [Attempt(prompts.examples[at], c.text, c.stopped, len(c.tokens)) for at, c in zip(each, done)]
            whole, grades = [Whole(c) for c in done], self.reward(attempts)
        else:
            episodes = self._played(
                prompts.stage, each, limits, lambda turn: self.draws.seed_of(position, number, turn)
            )
            whole, attempts = [e.whole() for e in episodes], [e.attempt() for e in episodes]
            grades = graded(episodes, self.reward(attempts), prompts.stage.world.low)
            attempts = [replace(a, example=e.example) for a, e in zip(attempts, episodes)]  # as they began, for readers
        refuse_odd(attempts, grades)
        found: list[Rollout] = []
        for k, at in enumerate(chosen):
            mine = slice(k * asked.group_size, (k + 1) * asked.group_size)
            others = [g.value for g in (grades if has_values(asked) else grades[mine])]
            found += self._compared(number * asked.prompts + k, at, whole[mine], grades[mine], is_same=is_flat(others))
        return found, attempts

    def _played(
        self, stage: Stage, each: Sequence[int], limits: Limits, seed_of: Callable[[int], int]
    ) -> list[Episode]:  # fmt: skip
        """Episodes of these prompts, all at once."""
        prompts = self.draws.prompts
        episodes = [Episode(prompts.examples[at], prompts.put[at], tuple(prompts.tokens[at])) for at in each]

        def sample(live: Sequence[Sequence[int]], turn: int) -> list[Completion]:
            return self.actor.sample(live, replace(limits, seed=seed_of(turn)), prompts.decode)

        play(episodes, stage.world.hear, sample, stage.behind, stage.bounds(self.asked.max_new_tokens))
        return episodes

    def _compared(
        self, group: int, at: int, done: Sequence[Whole], grades: Sequence[Grade], *, is_same: bool
    ) -> list[Rollout]:
        """`is_same`: all that these are compared with got the same; of a value head, the whole draw."""
        by = self.method.advantage
        advantages = [None] * len(grades) if by is None else by([g.value for g in grades]).tolist()
        example, prompt = self.draws.prompts.examples[at], tuple(self.draws.prompts.tokens[at])
        return [
            Rollout(
                group, example.id, prompt, c.tokens, c.logp, c.text, c.stopped, example.weight, g.value, dict(g.parts),
                g.why, advantage, is_same, spans=whole.spans, turns=whole.turns,
            )
            for whole, g, advantage in zip(done, grades, advantages, strict=True)
            for c in (whole.completion,)
        ]  # fmt: skip


def refuse_odd(attempts: Sequence[Attempt], grades: Sequence[Grade]) -> None:
    assert len(grades) == len(attempts), "a reward gives one grade for each reply"
    for attempt, grade in zip(attempts, grades):
        if not math.isfinite(grade.value):
            raise RunError(
                f"the reward of a reply to {attempt.example.source or attempt.example.id} is {grade.value}; wanted a "
                f"finite number. The reply: {attempt.text[:SHOWN]!r}"
            )
