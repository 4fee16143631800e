"""Episodes of several replies: what they begin with, and held-out cases played to their ends by each model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith.data.render import Renderer
from tunesmith.data.stored import Made
from tunesmith.evals.score import Answer
from tunesmith.measured import Asking, Means, sampled
from tunesmith.rollouts.draws import Prompts, Stage
from tunesmith.rollouts.environment import World
from tunesmith.rollouts.episodes import Episode, graded, play
from tunesmith.types import Completion, Example, Message

Put = Callable[[Example], tuple[Message, ...]]  # a row as it is put to a model


def prompts_of(
    rows: Sequence[Example], put: Put, renderer: Renderer, world: World | None, context: int | None
) -> Prompts:
    """What is asked of a model that learns from rewards. `context`: tokens that it can read."""
    if world is None:
        return Prompts(rows, list(Made(rows, lambda e: renderer.prompt(put(e)))), renderer.stop_ids, renderer.text)
    begun = world.begin(rows)
    turns = [put(e) for e in begun]
    stage = Stage(world, renderer.behind, renderer.end_id)
    made = Prompts(begun, list(map(renderer.prompt, turns)), renderer.stop_ids, renderer.text, turns, stage)
    made.refuse_longer(context)
    return made


def answers(asking: Asking, put: Put, means: Means) -> list[Answer]:
    """In the order of the cases. The deadline is one for all rounds; what an earlier, stopped sitting kept of a round
    is not asked again."""
    assert means.world is not None
    assert means.reward is not None
    began, context = time.monotonic(), asking.session.base.context_tokens
    prompts = prompts_of(asking.cases, put, asking.renderer, means.world, context)
    assert prompts.stage is not None
    episodes = [
        Episode(e, before, tuple(tokens))
        for e, before, tokens in zip(prompts.examples, prompts.put, prompts.tokens, strict=True)
    ]
    done = 0

    def sample(live: Sequence[Sequence[int]], turn: int) -> list[Completion]:
        nonlocal done
        limits = replace(asking.limits, spent_s=time.monotonic() - began) if turn else asking.limits
        found = sampled(asking, live, limits, asking.sitting.later(turn, done, done + len(live)))
        done += len(live)
        return found

    bounds = prompts.stage.bounds(asking.limits.max_new_tokens)
    play(episodes, means.world.hear, sample, prompts.stage.behind, bounds)
    grades = graded(episodes, means.reward([e.attempt() for e in episodes]), means.world.low)
    return [
        Answer(e.transcript(), e.stopped, len(e.logp), measured={"mean_reward": (grade.value,)})
        for e, grade in zip(episodes, grades, strict=True)
    ]
