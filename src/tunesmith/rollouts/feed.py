"""The feed of a run that learns from rewards: prompts are drawn, answered several times each, graded and compared.

Its position is data. What is sampled depends on the weights and on (seed, update, place in the draw), so that a resume
samples the same again; replies of which some updates were made already are read back from their file.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from tunesmith.errors import DataError, PlanError, RunError
from tunesmith.files import sha256_file
from tunesmith.objectives.policy import has_values, method_of
from tunesmith.roles import Reward
from tunesmith.rollouts import valued
from tunesmith.rollouts.drawing import SHOWN, Actor, Drawer, Drawn
from tunesmith.rollouts.draws import Draws
from tunesmith.rollouts.sampled import Rollout, bare, by_token, laid, learned, opened, save
from tunesmith.rollouts.served import FAR_NATS
from tunesmith.types import Forest

FOLDER = "rollouts"


class RolloutFeed:
    """What was sampled is learned from in `inner_epochs` passes of `mini_batches` updates; with one of each, every
    update is of the model that sampled; a server may sample ahead, and its weights are older then. Every reply is kept
    in a table below `folder`. `num_updates`: of the run; nothing is sampled ahead of them."""

    def __init__(
        self, draws: Draws, actor: Actor, reward: Reward, folder: Path, num_updates: int | None = None
    ) -> None:
        base = actor.session.base
        if base.layout != "forest":
            raise PlanError(
                f"replies are sampled from models of the forest layout, and this one needs {base.layout} "
                f"({base.probe.reason}). Use another model, or learn from replies or pairs"
            )
        self.draws, self._actor, self._folder = draws, actor, folder
        self._drawer = Drawer(draws, actor, reward)
        self._num_updates = draws.num_updates if num_updates is None else num_updates
        self._ahead: Future[Drawn] | None = None  # the next sampling, where it has begun
        self._staleness = 0  # updates that this sampling was behind when it was first learned from
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
            self._look_ahead()
        parts = np.array_split(np.arange(len(self._live)), self._asked.mini_batches)
        self._position += 1
        mine = [self._live[i] for i in parts[age % len(parts)]]
        age += self._staleness
        return laid(mine, self.draws.micro_tokens, self.draws.rope, age, by_pairs=self.draws.by_pairs)

    # -- sampling -----------------------------------------------------------------------------------------------

    def _sampled(self) -> list[Rollout]:
        """Of what was drawn, or is drawn now, that which can be learned from. `rollout_s` is how long it was waited
        for."""
        began, asked = time.monotonic(), self._asked
        ahead, self._ahead = self._ahead, None
        drawn = ahead.result() if ahead else self._drawer.begun(self._position, self._drawn)()
        self._drawn, self._staleness = drawn.num_prompts, self._position - drawn.weights_of
        found = [replace(r, staleness=self._staleness) for r in drawn.found]
        self._refuse_other_model(found[: asked.group_size])
        teaching = learned(found, by_pairs=self.draws.by_pairs)
        live = self._scored(teaching) if teaching else []
        scored = {id(before): after for before, after in zip(teaching, live)}
        path = self._path(self._position)
        save([scored.get(id(r), r) for r in found], drawn.attempts, path)
        self._file = sha256_file(path)
        self.told = told(found, asked.group_size, drawn.num_draws) | valued.told(live)
        self.told |= {"rollout_s": time.monotonic() - began}
        if not live:
            raise RunError(dead(found, self.draws, path))
        return live

    def _look_ahead(self) -> None:
        """The next sampling begins by the weights as they are now; the updates that are made meanwhile it is behind."""
        position, server = self._position + self.draws.per_sampling, self._actor.server
        if server is None or not server.ahead or position >= self._num_updates:
            return
        draw, self._ahead = self._drawer.begun(position, self._drawn, self._position), Future()
        Thread(target=settle, args=(self._ahead, draw), daemon=True).start()

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
            self._staleness = self._live[0].staleness


def settle(future: Future[Drawn], draw: Callable[[], Drawn]) -> None:
    """The future has what the draw gives, or raises."""
    try:
        future.set_result(draw())
    except BaseException as error:
        future.set_exception(error)


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
        **({"staleness": float(found[0].staleness)} if found[0].staleness else {}),
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
