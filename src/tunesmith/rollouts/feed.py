"""The feed of a run that learns from rewards: prompts are drawn, answered several times each, graded and compared.

Its position is data. What is sampled depends on the weights and on (seed, update, place in the draw), so that a resume
samples the same again; replies of which some updates were made already are read back from their file.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Snapshot
from tunesmith.errors import DataError, PlanError, RunError
from tunesmith.files import sha256_file
from tunesmith.generate.limits import Limits
from tunesmith.objectives.advantage import is_flat
from tunesmith.objectives.policy import has_values, method_of
from tunesmith.roles import Reward
from tunesmith.rollouts import valued
from tunesmith.rollouts.draws import Draws, Stage
from tunesmith.rollouts.episodes import Episode, Whole, graded, play
from tunesmith.rollouts.sampled import Rollout, bare, by_token, laid, learned, opened, save
from tunesmith.rollouts.served import FAR_NATS, Server
from tunesmith.types import Attempt, Completion, Forest, Grade

FOLDER = "rollouts"
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


class RolloutFeed:
    """What was sampled is learned from in `inner_epochs` passes of `mini_batches` updates; with one of each, every
    update is of the model that sampled. Every reply is kept in a table below `folder`."""

    def __init__(self, draws: Draws, actor: Actor, reward: Reward, folder: Path) -> None:
        base = actor.session.base
        if base.layout != "forest":
            raise PlanError(
                f"replies are sampled from models of the forest layout, and this one needs {base.layout} "
                f"({base.probe.reason}). Use another model, or learn from replies or pairs"
            )
        self.draws, self._actor, self._reward, self._folder = draws, actor, reward, folder
        self._asked, self._method = draws.asked, method_of(draws.asked)
        self._position, self._drawn = 0, 0  # updates given; prompts drawn
        self._live: list[Rollout] = []  # of this sampling, but for flat groups
        self._file = ""  # SHA-256 of its table
        self._is_checked = False  # whether a server was seen to have this model
        self.told: Mapping[str, float] = {}  # of the last sampling

    @property
    def updates_per_epoch(self) -> int:
        return self.draws.updates_per_epoch

    def update(self) -> list[Forest]:
        """The micro-batches of the next update. RunError where nothing can be learned any more."""
        age = self._position % self.draws.per_sampling
        if age == 0:
            self._live = self._sampled()
        parts = np.array_split(np.arange(len(self._live)), self._asked.mini_batches)
        self._position += 1
        mine = [self._live[i] for i in parts[age % len(parts)]]
        return laid(mine, self.draws.micro_tokens, self.draws.rope, age, by_pairs=self.draws.by_pairs)

    # -- sampling -----------------------------------------------------------------------------------------------

    def _sampled(self) -> list[Rollout]:
        """Draws until something can be learned; where the method refills, until as many groups as are drawn at a time
        tell replies apart. Both end after `patience` draws."""
        asked, began = self._asked, time.monotonic()
        wanted = asked.prompts if self._method.refills else 1
        found: list[Rollout] = []
        attempts: list[Attempt] = []
        num_live = num_draws = 0
        with self._actor.holding(self._position + 1):
            while num_live < wanted and num_draws < asked.patience:
                some, replies = self._draw(num_draws)
                found, attempts, num_draws = found + some, attempts + replies, num_draws + 1
                num_live = sum(not r.is_flat for r in found[:: asked.group_size])
        self._refuse_other_model(found[: asked.group_size])
        teaching = learned(found, by_pairs=self.draws.by_pairs)
        live = self._scored(teaching) if teaching else []
        scored = {id(before): after for before, after in zip(teaching, live)}
        path = self._path(self._position)
        save([scored.get(id(r), r) for r in found], attempts, path)
        self._file = sha256_file(path)
        self.told = told(found, asked.group_size, num_draws) | valued.told(live)
        self.told |= {"rollout_s": time.monotonic() - began}
        if not live:
            raise RunError(dead(found, self.draws, path))
        return live

    def _scored(self, live: list[Rollout]) -> list[Rollout]:
        """With what the reference says of each token, and what the value head, where there is one."""
        actor, asked, draws = self._actor, self._asked, self.draws
        forests = [forest for forest, _ in bare(live, draws.micro_tokens, draws.rope, by_pairs=draws.by_pairs)]
        temperature = 1.0 if draws.by_pairs else asked.temperature  # pairs are of the model itself
        said = actor.session.logprobs(actor.reference, forests, temperature)
        live = [replace(r, ref_logp=v) for r, v in zip(live, by_token(forests, said, live), strict=True)]
        if not has_values(asked):
            return live
        values = by_token(forests, actor.session.values(actor.tenant, forests), live)
        return [valued.valued(r, v, asked) for r, v in zip(live, values, strict=True)]

    def _draw(self, number: int) -> tuple[list[Rollout], list[Attempt]]:
        """The replies to the next prompts, those of a prompt side by side, graded and compared."""
        asked, actor, prompts = self._asked, self._actor, self.draws.prompts
        chosen = [self.draws.at(self._drawn + k) for k in range(asked.prompts)]
        self._drawn += asked.prompts
        each = [at for at in chosen for _ in range(asked.group_size)]
        seed = self.draws.seed_of(self._position, number)
        limits = Limits(
            asked.max_new_tokens, prompts.stop_ids, asked.temperature, seed=seed, rows=actor.rows, tempered=True
        )
        if prompts.stage is None:
            done = actor.sample([prompts.tokens[at] for at in each], limits, prompts.decode)
            attempts = [Attempt(prompts.examples[at], c.text, c.stopped, len(c.tokens)) for at, c in zip(each, done)]
            whole, grades = [Whole(c) for c in done], self._reward(attempts)
        else:
            episodes = self._played(prompts.stage, each, number, limits)
            whole, attempts = [e.whole() for e in episodes], [e.attempt() for e in episodes]
            grades = graded(episodes, self._reward(attempts), prompts.stage.world.low)
            attempts = [replace(a, example=e.example) for a, e in zip(attempts, episodes)]  # as they began, for readers
        refuse_odd(attempts, grades)
        found: list[Rollout] = []
        for k, at in enumerate(chosen):
            mine = slice(k * asked.group_size, (k + 1) * asked.group_size)
            others = [g.value for g in (grades if has_values(asked) else grades[mine])]
            found += self._compared(number * asked.prompts + k, at, whole[mine], grades[mine], is_same=is_flat(others))
        return found, attempts

    def _refuse_other_model(self, some: list[Rollout]) -> None:
        """RunError where a server's first replies are not as likely here as it says."""
        actor, draws = self._actor, self.draws
        if actor.server is None or self._is_checked:
            return
        forests = [forest for forest, _ in bare(some, draws.micro_tokens, draws.rope, by_pairs=False)]
        said = actor.session.logprobs(actor.tenant, forests, self._asked.temperature)
        own = by_token(forests, said, some)
        apart = float(np.mean([abs(a - b) for r, mine in zip(some, own) for a, b in zip(r.logp, mine, strict=True)]))
        if apart > FAR_NATS:
            raise RunError(
                f"{actor.server.said} is not the model that learns: its replies are {apart:.2g} nats a token more or "
                f"less likely here than it said; up to {FAR_NATS:g} may be rounding. Serve the same base, without "
                "quantisation, and look that it takes the adapters it is sent"
            )
        self._is_checked = True

    def _played(self, stage: Stage, each: Sequence[int], number: int, limits: Limits) -> list[Episode]:
        """Episodes of these prompts, all at once."""
        draws, actor, prompts = self.draws, self._actor, self.draws.prompts
        episodes = [Episode(prompts.examples[at], prompts.put[at], tuple(prompts.tokens[at])) for at in each]

        def sample(live: Sequence[Sequence[int]], turn: int) -> list[Completion]:
            now = replace(limits, seed=draws.seed_of(self._position, number, turn))
            return actor.sample(live, now, prompts.decode)

        play(episodes, stage.world.hear, sample, stage.behind, stage.bounds(self._asked.max_new_tokens))
        return episodes

    def _compared(
        self, group: int, at: int, done: Sequence[Whole], grades: Sequence[Grade], *, is_same: bool
    ) -> list[Rollout]:
        """`is_same`: all that these are compared with got the same; of a value head, the whole draw."""
        by = self._method.advantage
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

    def _path(self, update: int) -> Path:
        return self._folder / FOLDER / f"update_{update + 1:07d}.parquet"

    # -- keeping ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"position": self._position, "drawn": self._drawn, "file": self._file, "digest": self.draws.digest}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved position. Refused for other prompts or settings, and where replies that are still to be
        learned from are not what they were."""
        if state["digest"] != self.draws.digest:
            raise DataError(
                "the prompts, objective.policy, train.epochs or the seed are not those of the saved run. Restore them "
                "to resume, or start a new run."
            )
        self._position, self._drawn, self._file = int(state["position"]), int(state["drawn"]), str(state["file"])
        age = self._position % self.draws.per_sampling
        if age:
            path = self._path(self._position - age)
            if not path.is_file() or sha256_file(path) != self._file:
                raise RunError(
                    f"{path} is not what was sampled for update {self._position - age + 1}, and the updates behind it "
                    "learn from that. Restore it from a copy, or resume from a checkpoint before it"
                )
            self._live = learned(opened(path), by_pairs=self.draws.by_pairs)


def refuse_odd(attempts: Sequence[Attempt], grades: Sequence[Grade]) -> None:
    assert len(grades) == len(attempts), "a reward gives one grade for each reply"
    for attempt, grade in zip(attempts, grades):
        if not math.isfinite(grade.value):
            raise RunError(
                f"the reward of a reply to {attempt.example.source or attempt.example.id} is {grade.value}; wanted a "
                f"finite number. The reply: {attempt.text[:SHOWN]!r}"
            )


def told(found: Sequence[Rollout], group_size: int, num_draws: int) -> dict[str, float]:
    """What a sampling was like."""
    lengths, rewards = [len(r.logp) for r in found], [r.reward for r in found]
    groups = range(0, len(found), group_size)
    return {
        "reward": statistics.fmean(rewards),
        "reward_spread": statistics.fmean(float(np.std(rewards[k : k + group_size])) for k in groups),
        "flat_frac": statistics.fmean(found[k].is_flat for k in groups),
        "reply_tokens": statistics.fmean(lengths),
        "stopped_frac": statistics.fmean(r.stopped for r in found),
        "distinct_frac": len({(r.group, r.text) for r in found}) / len(found),
        "draws": float(num_draws),
        "sampled_tokens": float(sum(lengths)),
        **({"turns": statistics.fmean(len(r.spans[::2]) for r in found)} if found[0].spans else {}),
    }


def dead(found: Sequence[Rollout], draws: Draws, path: Path) -> str:
    """Why nothing can be learned, and what to do."""
    asked, values = draws.asked, sorted({r.reward for r in found})
    if len(values) == 1:
        same = f"all {len(found)} got {values[0]:g}"
    else:
        same = f"those of a prompt all got the same, from {values[0]:g} to {values[-1]:g} by prompt"
    one = found[0]
    why = f" ({one.why})" if one.why else ""
    return (
        f"no reply did better than another one to its prompt in {asked.patience} draws in a row of {asked.prompts} "
        f"prompts with {asked.group_size} replies each: {same}. Nothing can be learned from that. One of them, "
        f"with {one.reward:g}{why}: {one.text[:SHOWN]!r}. Look at {path}, and try the reward on some of these replies "
        "(`tunesmith grade`). If it is right: give credit in steps, take prompts that are sometimes solved, teach the "
        "form by examples first (supervised), or raise objective.policy.group_size, temperature or max_new_tokens"
    )
