"""What each token of a reply is learned by where a value head says what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.objectives.advantage import gae, moments, token_rewards
from tunesmith.objectives.policy import Policy, kl_of
from tunesmith.rollouts.sampled import Rollout


def valued(rollout: Rollout, value: tuple[float, ...], asked: Policy) -> Rollout:
    """With `value`, what was expected before each token, and the returns: what came, and was expected behind it."""
    rewards = token_rewards(rollout.reward, rollout.logp, rollout.ref_logp, kl_of(asked))
    found = gae(rewards, value, asked.critic.gamma, asked.critic.gae_lambda)
    returns = tuple(float(a) + v for a, v in zip(found, value, strict=True))
    return replace(rollout, value=value, returns=returns)


def told(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How good the values were, over the tokens of replies that have some: 1 - Var(returns - value) / Var(returns)."""
    value, returns = ([v for r in rollouts for v in part(r)] for part in (lambda r: r.value, lambda r: r.returns))
    if not value:
        return {}
    alike = [1.0] * len(value)
    missed, spread = (moments(x, alike)[1] for x in ([a - v for a, v in zip(returns, value)], returns))
    found = {"value": moments(value, alike)[0], "return": moments(returns, alike)[0]}
    return found | ({"explained_variance": 1 - (missed / spread) ** 2} if spread else {})
