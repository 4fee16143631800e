"""Which prompts are drawn when, and how much can come of them: known before anything is sampled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tunesmith.errors import DataError, PlanError
from tunesmith.objectives.critic import Critic
from tunesmith.objectives.policy import ONLINE, Policy, Sampling, has_values, method_of
from tunesmith.rollouts.environment import World
from tunesmith.rollouts.episodes import Behind, Bounds
from tunesmith.rollouts.sampled import Rollout, laid
from tunesmith.types import Example, Forest, Message, RopeLimit

UNLIKELY = -50.0  # nats of a token that nobody sampled, so that no ratio of it runs out of numbers


@dataclass(frozen=True, slots=True)
class Stage:
    """What episodes of several replies are played in."""

    world: World
    behind: Behind
    end_id: int  # with which a reply ends where the template ends it

    def bounds(self, max_new_tokens: int) -> Bounds:
        return Bounds(self.world.asked.turns, self.world.asked.tokens, max_new_tokens, self.end_id)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is asked, and how a reply's tokens are read."""

    examples: Sequence[Example]
    tokens: Sequence[Sequence[int]]
    stop_ids: tuple[int, ...]
    decode: Callable[[Sequence[int]], str]
    put: Sequence[tuple[Message, ...]] = ()  # of which turns the tokens are, where episodes go on from them
    stage: Stage | None = None

    def refuse_longer(self, context: int | None) -> None:
        """PlanError where an episode may need more than the model can read."""
        if self.stage is None or context is None:
            return
        longest = max(map(len, self.tokens), default=0)
        if longest + self.stage.world.asked.tokens > context:
            raise PlanError(
                f"an episode may have {longest} tokens of its prompt and {self.stage.world.asked.tokens} behind it "
                f"(environment.tokens), and the model's context is {context}: lower that, or drop long rows"
            )


class Draws:
    """Each draw takes the next `prompts` of an epoch's permutation, which follows from (seed, epoch). `micro_tokens`
    and `rope` only cut what is learned from."""

    def __init__(
        self, prompts: Prompts, asked: Policy, epochs: int, seed: int, micro_tokens: int = 2048,
        rope: RopeLimit | None = None,
    ) -> None:  # fmt: skip
        if not prompts.examples:
            raise DataError("there is no prompt to answer: all were dropped or moved. See `tunesmith audit`.")
        refuse(asked)
        refuse_room(asked, prompts.stage)
        self.prompts, self.asked, self.epochs, self.seed = prompts, asked, epochs, seed
        self.micro_tokens, self.rope = micro_tokens, rope
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def by_pairs(self) -> bool:
        """Whether of a prompt's replies the best and the worst alone are learned from."""
        return method_of(self.asked) is ONLINE

    @property
    def num_learned(self) -> int:
        """Replies to a prompt that are learned from."""
        return 2 if self.by_pairs else self.asked.group_size

    @property
    def per_sampling(self) -> int:
        """Updates that are made of what was sampled once."""
        return self.asked.inner_epochs * self.asked.mini_batches

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self.prompts.examples) // self.asked.prompts) * self.per_sampling

    @property
    def num_updates(self) -> int:
        return self.epochs * self.updates_per_epoch

    @property
    def room(self) -> int:
        """Tokens behind a prompt, at most."""
        stage = self.prompts.stage
        return self.asked.max_new_tokens if stage is None else stage.world.asked.tokens

    @property
    def most_written(self) -> int:
        """Tokens that the model writes behind a prompt, at most."""
        stage, one = self.prompts.stage, self.asked.max_new_tokens
        return one if stage is None else min(stage.world.asked.tokens, stage.world.asked.turns * one)

    def at(self, number: int) -> int:
        """Which prompt is drawn as the `number`-th of the run."""
        epoch, place = divmod(number, len(self.prompts.examples))
        if self._order is None or self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
            self._order = epoch, generator.permutation(len(self.prompts.examples))
        return int(self._order[1][place])

    def seed_of(self, update: int, draw: int, turn: int = 0) -> int:
        """Of what is sampled for an update, whatever was sampled before."""
        said = repr((self.seed, update, draw, *([turn] if turn else ()))).encode()
        return int.from_bytes(hashlib.sha256(said).digest()[:7], "big")

    def num_seen(self, num_updates: int) -> int:
        """How many prompts these updates draw, each counted once, where no draw has to be made again."""
        return min(len(self.prompts.examples), -(-num_updates // self.per_sampling) * self.asked.prompts)

    def shares(self, num_updates: int) -> tuple[()]:
        """Nothing is mixed."""
        return ()

    def heaviest(self) -> list[Forest]:
        """The micro-batches of an update of the longest prompts whose replies are all as long as they may be."""
        by_length = sorted(range(len(self.prompts.tokens)), key=lambda at: (-len(self.prompts.tokens[at]), at))
        num, most = self.room, by_length[: self.asked.prompts]
        advantage, values = (None, (0.0,) * num) if has_values(self.asked) else (0.0, ())
        longest = [
            Rollout(
                group, self.prompts.examples[at].id, tuple(self.prompts.tokens[at]), (self.prompts.stop_ids[0],) * num,
                (UNLIKELY,) * num, "", False, 1.0, 0.0, {}, "", advantage, False, (UNLIKELY,) * num, values, values,
            )
            for group, at in enumerate(most)
            for _ in range(self.num_learned)
        ]  # fmt: skip
        part = np.array_split(np.arange(len(longest)), self.asked.mini_batches)[0]
        return laid([longest[i] for i in part], self.micro_tokens, self.rope, by_pairs=self.by_pairs)

    def shape(self) -> dict[str, Any]:
        """Facts for the plan, of one epoch, where all replies are as long as they may be."""
        lengths, a = np.array([len(t) for t in self.prompts.tokens]), self.asked
        learned = self.num_learned * self.most_written
        behind = self.num_learned * self.room
        most = np.sort(lengths)[::-1][: a.prompts]
        return {
            "num_examples": len(lengths),
            "num_updates": self.num_updates,
            "updates_per_epoch": self.updates_per_epoch,
            "epochs": self.epochs,
            "tokens": a.inner_epochs * int(lengths.sum() + len(lengths) * behind),
            "learned_tokens": a.inner_epochs * len(lengths) * learned,
            "longest_tokens": int(lengths.max()) + self.room,
            "update_tokens_min": int(lengths.min()) + a.max_new_tokens,
            "update_tokens_max": -(-(int(most.sum()) + len(most) * behind) // a.mini_batches),
            "sampled_tokens": len(lengths) * a.group_size * self.most_written,
        }

    @cached_property
    def digest(self) -> str:
        """What decides which prompts are drawn, and how they are answered."""
        asked = replace(self.asked, server=Sampling())  # who samples may move
        hashed = hashlib.sha256(repr((asked, self.epochs, self.seed, self.prompts.stop_ids)).encode())
        for example, tokens in zip(self.prompts.examples, self.prompts.tokens, strict=True):
            hashed.update(example.id.encode() + b"\0" + np.array(tokens, np.int64).tobytes())
        if self.prompts.stage is not None:
            stage = self.prompts.stage
            hashed.update(repr((stage.world.asked, sorted(stage.world.files.values()))).encode())
        return hashed.hexdigest()


def refuse_room(asked: Policy, stage: Stage | None) -> None:
    if stage is not None and stage.world.asked.tokens < asked.max_new_tokens:
        raise PlanError(
            f"environment.tokens is {stage.world.asked.tokens}, and a reply may have {asked.max_new_tokens} "
            "(objective.policy.max_new_tokens): use at least as many, or shorter replies"
        )


def refuse(asked: Policy) -> None:
    """PlanError where replies could not be compared."""
    is_valued, critic = has_values(asked), asked.critic
    least = asked.group_size * (asked.prompts if is_valued else 1)
    reasons = {
        f"group_size is {asked.group_size}: replies to a prompt are compared with each other. Use 2 or more": (
            asked.group_size < 2 and not is_valued
        ),
        f"temperature is {asked.temperature:g}: replies to a prompt would all be the same. Use a number above 0 (1 is "
        "usual)": asked.temperature <= 0,
        f"mini_batches is {asked.mini_batches}, and of {least} replies at least is learned: an update could be empty. "
        "Use at most as many": asked.mini_batches > least,
        f"critic is read by method ppo alone, and it is {asked.method}: leave critic out": (
            critic != Critic() and not is_valued
        ),
        f"critic.gamma is {critic.gamma}; wanted a number above 0, 1 at most": not 0 < critic.gamma <= 1,
        f"critic.gae_lambda is {critic.gae_lambda}; wanted a number from 0 to 1": not 0 <= critic.gae_lambda <= 1,
        f"critic.clip is {critic.clip}; no value is learned at 0. Wanted a number above it": critic.clip <= 0,
        f"critic.weight is {critic.weight}; no value is learned at 0. Wanted a number above it": critic.weight <= 0,
    }
    if method_of(asked) is ONLINE:
        for name in ("clip_low", "clip_high", "kl"):
            why = f"{name} is not read by method online_dpo, which learns pairs by objective.preference: leave it out"
            reasons[why] = getattr(asked, name) is not None
        why = f"mini_batches is {asked.mini_batches}, and by method online_dpo a prompt gives one pair: an update"
        reasons[f"{why} could be empty. Use 1"] = asked.mini_batches > 1
    at = asked.server.endpoint
    reasons["server has no model: say the name that the base has there"] = bool(at) and not asked.server.model
    reasons["server has no endpoint, and nothing else of it is read: say its address, or leave server out"] = (
        not at and asked.server != Sampling()
    )
    reasons[
        f"temperature is {asked.temperature:g}, and a server tells how likely a token is at 1: use 1, or sample here"
    ] = bool(at) and asked.temperature != 1
    for name in ("clip_low", "clip_high"):
        said = getattr(asked, name)
        reasons[f"{name} is {said}; nothing is learned at 0. Wanted a number above it"] = said is not None and said <= 0
    reasons[f"kl is {asked.kl}; wanted 0, which is off, or a number above it"] = asked.kl is not None and asked.kl < 0
    for name in ("group_size", "prompts", "max_new_tokens", "inner_epochs", "mini_batches", "patience"):
        reasons[f"{name} is {getattr(asked, name)}; wanted a number above 0"] = getattr(asked, name) < 1
    for reason, is_so in reasons.items():
        if is_so:
            raise PlanError(f"objective.policy.{reason}")
