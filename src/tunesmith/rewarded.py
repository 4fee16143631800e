"""Runs that learn from rewards: what is drawn, who answers, and what grades."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tunesmith.build import TENANT, Material
from tunesmith.engine.loop import State
from tunesmith.engine.session import Session
from tunesmith.evals.endpoint import Endpoint
from tunesmith.export.vllm_rules import vllm_facts
from tunesmith.folder import RunFolder
from tunesmith.generate.limits import Limits
from tunesmith.recipe import Recipe
from tunesmith.roles import Feed, Foretold
from tunesmith.rollouts.draws import Draws
from tunesmith.rollouts.episodes import Episode, play
from tunesmith.rollouts.feed import FOLDER, Actor, RolloutFeed
from tunesmith.rollouts.served import HELD, Server, check
from tunesmith.types import Attempt

JUDGED = "rollouts/judged.jsonl"  # what the models said that a reward asks, by a digest of the question
NUM_TRIED, TRIED_TOKENS = 2, 8  # replies to the longest prompt, and their tokens, that a rehearsal samples


def rolling(recipe: Recipe, folder: RunFolder, session: Session, made: Material, feed: Foretold, state: State) -> Feed:
    """The feed of a run that learns from rewards, of the draws that were planned; any other's as it is. The tenant
    stands at update 0."""
    if not isinstance(feed, Draws):
        return feed  # type: ignore[return-value]
    assert made.means.reward is not None
    actor = actor_of(recipe, folder, session, made)
    state.reference = "" if made.before is None else made.before.tuned
    return RolloutFeed(feed, actor, made.means.reward, folder.path, state.num_updates)


def endpoint_of(recipe: Recipe) -> Endpoint | None:
    """Of the server that samples in place of the session, which is there. InputError where it is not."""
    asked = recipe.objective.policy.server
    if asked.endpoint is None:
        return None
    endpoint = Endpoint(asked.endpoint, asked.model, asked.api_key_env)
    return check(endpoint.allowed("objective.policy.server.endpoint"))


def actor_of(recipe: Recipe, folder: RunFolder, session: Session, made: Material) -> Actor:
    """Who answers, and the model as it is now to be held against, where it is not the base."""
    reference = None if made.before is None else session.publish(TENANT)
    endpoint, server = endpoint_of(recipe), None

    def export(out: Path) -> list[str]:
        session.export(session.publish(TENANT), out)  # whole, where ranks hold parts
        return list(vllm_facts(out)["breaches"])

    if endpoint is not None:
        for left in (folder.path / FOLDER).glob(f"{HELD}*"):  # by a run that was killed
            shutil.rmtree(left)
        server = Server(endpoint, export, folder.path / FOLDER, recipe.objective.policy.server.ahead)
    return Actor(session, TENANT, reference, recipe.evals.rows, server)


def try_group(actor: Actor, feed: Foretold, made: Material) -> None:
    """The longest prompt answered, and its replies graded, as each update will do it."""
    assert isinstance(feed, Draws)
    assert made.means.reward is not None
    prompts = feed.prompts
    at = max(range(len(prompts.tokens)), key=lambda k: len(prompts.tokens[k]))
    most = min(TRIED_TOKENS, feed.asked.max_new_tokens)
    limits = Limits(most, prompts.stop_ids, feed.asked.temperature, rows=NUM_TRIED, tempered=True)
    with actor.holding(0):
        done = actor.sample([prompts.tokens[at]] * NUM_TRIED, limits, prompts.decode)
    if prompts.stage is not None:
        episodes = [Episode(prompts.examples[at], prompts.put[at], tuple(prompts.tokens[at])) for _ in done]
        bounds = replace(prompts.stage.bounds(most), turns=1)
        play(episodes, prompts.stage.world.hear, lambda live, turn: done, prompts.stage.behind, bounds)
    made.means.reward([Attempt(prompts.examples[at], c.text, c.stopped, len(c.tokens)) for c in done])
